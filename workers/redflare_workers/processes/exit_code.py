"""What the exit code of a job's process says."""

from __future__ import annotations

import signal
from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of job processes; the values are NVFlare's."""

    SUCCESS = 0
    #: a component panicked
    EXECUTION_ERROR = 1
    #: it was told to end
    ABORTED = 9
    #: code raised an exception
    EXCEPTION = 101
    #: the job asks for what is not admitted
    UNSAFE = 102
    #: the job, or a setting, is wrong
    CONFIG = 103
    #: Redis is not fit, refuses this user, or another process has taken over
    INFRASTRUCTURE = 104


def describe_exit(code: int) -> str:
    """``"exit code 101 (EXCEPTION)"``, ``"ended by SIGKILL"``; a negative code is that of a signal."""
    if code < 0:
        try:
            return f"ended by {signal.Signals(-code).name}"
        except ValueError:
            return f"ended by signal {-code}"
    name = f" ({ExitCode(code).name})" if code in ExitCode._value2member_map_ else ""
    return f"exit code {code}{name}"
