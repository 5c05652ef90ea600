"""A program and all that belongs to it: every descendant inherits a mark in its environment."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psutil

_MARK: Final = "REDFLARE_TEST_MARK"


class MarkedProgram:
    """A program that runs in a new session."""

    def __init__(
        self, command: Sequence[str | Path], folder: Path, scratch: Path, given: str | None, path: Path | None
    ) -> None:
        self._mark = uuid.uuid4().hex
        self.scratch = scratch
        paths = [str(path)] if path else []
        if before := os.environ.get("PYTHONPATH"):
            paths.append(before)
        environment = {_MARK: self._mark, "TMPDIR": str(scratch), "COLUMNS": "100", "NO_COLOR": "1"}
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=os.environ | environment | {"PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,
        )
        if given is not None:
            assert self.process.stdin is not None
            self.process.stdin.write(given)
            self.process.stdin.close()
            self.process.stdin = None

    def processes(self) -> list[psutil.Process]:
        """Every process of the program, whatever group or parent it has by now."""
        return [process for process in psutil.process_iter() if self._marked(process)]

    def _marked(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get(_MARK) == self._mark and process.status() != psutil.STATUS_ZOMBIE
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return False

    def left_behind(self) -> list[str]:
        """Processes and temporary files that still exist."""
        return [repr(process) for process in self.processes()] + [str(path) for path in self.scratch.iterdir()]

    def read_until(self, text: str) -> str:
        """Read the standard error up to a line with ``text``; return that line."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if text in line:
                return line
        raise AssertionError(f"it ended before it printed {text!r}")

    def finish(self, seconds: float = 60.0) -> tuple[int, str, str]:
        """Wait for its end; return exit code, output and errors."""
        output, errors = self.process.communicate(timeout=seconds)
        return self.process.returncode, output, errors


@contextmanager
def marked(
    command: Sequence[str | Path],
    folder: Path,
    *,
    scratch: Path | None = None,
    given: str | None = None,
    path: Path | None = None,
) -> Iterator[MarkedProgram]:
    """Run a program in a folder; whatever of it is left at the end of the block is killed.

    Args:
        scratch: for its temporary files; None: a folder in ``folder``.
        given: its standard input.
        path: a further folder in which it finds modules.
    """
    scratch = scratch or folder / "scratch"
    scratch.mkdir()
    program = MarkedProgram(command, folder, scratch, given, path)
    try:
        yield program
    finally:
        program.process.kill()
        program.process.communicate()
        for left in program.processes():
            left.kill()
