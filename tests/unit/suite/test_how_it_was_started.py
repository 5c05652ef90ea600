"""The suite does not depend on how it was started: as a shell's background job, by a supervisor, by pytest-xdist."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

#: The program that a shell starts has these signals ignored, as one that it puts into the background has SIGINT.
IGNORING = 'trap \'\' INT CHLD PIPE; exec "$0" "$@"'


def test_signals_have_the_handlers_that_python_gives_them() -> None:
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGPIPE) is signal.SIG_IGN
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) & {signal.SIGINT, signal.SIGCHLD, signal.SIGPIPE} == set()


@pytest.mark.parametrize("workers", [0, 1])
def test_tests_pass_when_pytest_was_started_with_signals_ignored(workers: int) -> None:
    tests = [
        "tests/unit/suite/test_how_it_was_started.py::test_signals_have_the_handlers_that_python_gives_them",
        "tests/unit/agent/test_agent.py::test_an_interrupted_submission_continues_when_it_is_called_again",
    ]
    pytest_here = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", str(workers), *tests]
    ran = subprocess.run(
        ["sh", "-c", IGNORING, *pytest_here], cwd=ROOT, capture_output=True, text=True, timeout=200, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "2 passed" in ran.stdout
