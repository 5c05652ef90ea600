"""Processes: trainers on our agent, which cannot import NVFlare, and other programs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import psutil

from tests.inside_nvflare.jobs import SCRIPTS, blocks
from tests.support.waiting import wait_until

#: Runs a script in a process in which NVFlare is not installed, as far as it can see.
_WITHOUT_NVFLARE: Final = (
    "import runpy, sys; sys.modules['nvflare'] = None; sys.argv = sys.argv[1:]; "
    "sys.path.insert(0, sys.argv.pop(0)); runpy.run_path(sys.argv[0], run_name='__main__')"
)


class Program:
    """A process with its output in a file; it and what it started are killed at the end of the ``with`` block."""

    def __init__(
        self, command: Sequence[str], log: Path, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, cwd=cwd, env=env
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def output(self) -> list[str]:
        """Lines of its output so far."""
        return self.log.read_text(errors="replace").splitlines()

    def wait_output(self, text: str, timeout: float = 60.0) -> str:
        """Wait for a line with ``text``; return it."""

        def found() -> str:
            if line := next((line for line in self.output() if text in line), ""):
                return line
            assert self._process.poll() is None, f"it ended before it printed {text!r}:\n{self.tail()}"
            return ""

        return wait_until(found, timeout, f"{text!r} in {self.log}")

    def wait(self, timeout: float = 60.0) -> int:
        """Its exit code; the last lines of its output when it does not end."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it has not ended within {timeout:g} s:\n{self.tail()}") from None

    def tail(self) -> str:
        return "\n".join(self.output()[-30:])

    def kill(self) -> None:
        """SIGKILL it and its children; return when they have exited."""
        try:
            family = [*psutil.Process(self.pid).children(recursive=True), psutil.Process(self.pid)]
        except psutil.NoSuchProcess:
            family = []
        for process in family:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self._process.wait()
        psutil.wait_procs(family, timeout=10)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


def moved(script: str, folder: Path) -> Path:
    """Copy a script and change its imports, as the page describes; return the copy."""
    text = (SCRIPTS / script).read_text()
    for block in blocks("diff"):
        theirs, ours = (line[1:] for line in block.splitlines())
        text = text.replace(theirs, ours)
    target = folder / script
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    return target


def trainer(script: str, folder: Path, *args: str) -> Program:
    """Start a trainer on our agent in a process without NVFlare; ``folder`` is its current folder."""
    path = moved(script, folder)
    command = [sys.executable, "-c", _WITHOUT_NVFLARE, str(SCRIPTS), str(path), *args]
    return Program(command, folder / "trainer.log", cwd=folder)


def nvflare_trainer(script: str, folder: Path, *args: str) -> Program:
    """Start the script unchanged, with NVFlare's own agent."""
    folder.mkdir(parents=True, exist_ok=True)
    return Program([sys.executable, str(SCRIPTS / script), *args], folder / "trainer.log", cwd=folder)
