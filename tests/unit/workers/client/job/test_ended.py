"""What the log of a site's job process says of its end."""

from __future__ import annotations

import pytest
from redflare_workers.client.job.job_main import ended
from redflare_workers.processes.exit_code import ExitCode


@pytest.mark.parametrize(
    ("code", "reason", "line"),
    [
        (0, "FINISHED:COMPLETED", "job j is over: FINISHED:COMPLETED; this site's process ends in order"),
        (
            0,
            "FINISHED:EXECUTION_EXCEPTION: no result",
            "job j is over: FINISHED:EXECUTION_EXCEPTION: no result; this site's process ends in order",
        ),
        (101, "ValueError: boom", "job j ends here with exit code 101 (EXCEPTION): ValueError: boom"),
    ],
)
def test_a_failed_job_does_not_end_with_success(code: int, reason: str, line: str) -> None:
    assert ended("j", ExitCode(code), reason) == line
