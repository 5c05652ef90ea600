"""Exit codes of job processes."""

from __future__ import annotations

import signal
from enum import IntEnum


class ExitCode(IntEnum):
    """Why a job's process exited; the values are NVFlare's."""

    SUCCESS = 0
    #: a component panicked
    EXECUTION_ERROR = 1
    #: it was aborted
    ABORTED = 9
    #: code raised an exception
    EXCEPTION = 101
    #: the job asks for what the site does not allow
    UNSAFE = 102
    #: the job, or a setting, is wrong
    CONFIG = 103
    #: Redis fails the preflight or refuses this user, or another process has taken over
    INFRASTRUCTURE = 104
    #: another agent of its name has taken over
    REPLACED = 105
    #: an agent has said bye: it was told to, or its job is over; a trainer may end its process with 0
    LEFT = 106


def describe_exit(code: int) -> str:
    """Describe an exit code: ``"exit code 101 (EXCEPTION)"``, ``"killed by SIGKILL"`` (-9)."""
    if code < 0:
        try:
            return f"killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"killed by signal {-code}"
    name = f" ({ExitCode(code).name})" if code in ExitCode._value2member_map_ else ""
    return f"exit code {code}{name}"
