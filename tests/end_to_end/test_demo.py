"""``redflare demo`` as a stranger runs it: it learns, kills change no number, and nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from tests.support.waiting import wait_until

REDFLARE = Path(sys.executable).parent / "redflare"
MARK = "REDFLARE_TEST_MARK"
NUMBERS = "numbers.json"


@dataclass
class Demo:
    """A running demo and its descendants: each inherits a mark in its environment."""

    process: subprocess.Popen[str]
    mark: str
    scratch: Path

    def processes(self) -> list[psutil.Process]:
        """Every process of this demo, whatever group or parent it has by now."""
        return [process for process in psutil.process_iter() if self._marked(process)]

    def _marked(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return False

    def read_until(self, word: str) -> None:
        """Read the output up to a line with this word."""
        assert self.process.stdout is not None
        assert any(word in line for line in self.process.stdout), f"the demo ended before it printed {word!r}"

    def left_behind(self) -> list[str]:
        return [repr(process) for process in self.processes()] + [str(path) for path in self.scratch.iterdir()]


@contextmanager
def running(directory: Path, *arguments: str) -> Iterator[Demo]:
    """A demo in a process group, and with a directory for temporary files, of its own."""
    scratch = directory / "scratch"
    scratch.mkdir()
    mark = uuid.uuid4().hex
    process = subprocess.Popen(
        [REDFLARE, "demo", "--out", str(directory), "--json-file", str(directory / NUMBERS), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {MARK: mark, "TMPDIR": str(scratch)},
        start_new_session=True,
    )
    demo = Demo(process, mark, scratch)
    try:
        yield demo
    finally:
        process.kill()
        process.communicate()
        for left in demo.processes():
            left.kill()


def finished(directory: Path, *arguments: str) -> tuple[str, dict[str, Any]]:
    """Return output and numbers of a complete demo."""
    with running(directory, *arguments) as demo:
        output, errors = demo.process.communicate(timeout=110)
        assert demo.process.returncode == 0, errors
        assert errors == ""
        assert demo.left_behind() == []
    return output, json.loads((directory / NUMBERS).read_text())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    return finished(tmp_path_factory.mktemp("undisturbed"), "--rounds", "3")


def test_the_demo_trains_a_model_that_beats_most_sites_alone(undisturbed: tuple[str, dict[str, Any]]) -> None:
    output, numbers = undisturbed
    alone = [curve["accuracy"][-1] for curve in numbers["alone"]]
    federated, pooled = numbers["federated"]["accuracy"], numbers["pooled"]["accuracy"]
    assert [len(federated), len(pooled), len(alone)] == [3, 3, 4]
    assert federated[-1] > max(0.75, sorted(alone)[-2])
    assert 0.85 < pooled[-1] <= 1
    assert sum(curve["images"] for curve in numbers["alone"]) == numbers["pooled"]["images"] == 1347
    assert numbers["kills"] == 0
    assert all(word in output for word in ("round   3/3", f"{federated[-1]:.1%}", numbers["sha256"], numbers["plot"]))


def test_the_demo_leaves_a_png_of_the_curves(undisturbed: tuple[str, dict[str, Any]]) -> None:
    with Image.open(undisturbed[1]["plot"]) as picture:
        picture.load()
        assert picture.format == "PNG"


def test_killing_an_agent_in_every_round_gives_the_same_model_to_the_bit(
    tmp_path: Path, undisturbed: tuple[str, dict[str, Any]]
) -> None:
    output, numbers = finished(tmp_path, "--rounds", "3", "--kill-agents")
    assert numbers["kills"] == 3
    assert [f"site-{n}: agent" in output for n in range(1, 5)] == [True, True, True, False]
    assert output.count("killed (SIGKILL) half-way") == 3
    for same in ("sha256", "federated", "alone", "pooled"):
        assert numbers[same] == undisturbed[1][same]


def test_killing_the_server_in_a_round_gives_the_same_model_to_the_bit(
    tmp_path: Path, undisturbed: tuple[str, dict[str, Any]]
) -> None:
    output, numbers = finished(tmp_path, "--rounds", "3", "--kill-server")
    assert numbers["server_kills"] == 1
    assert output.count("killed (SIGKILL) in the middle of a round") == 1
    for same in ("sha256", "federated", "alone", "pooled"):
        assert numbers[same] == undisturbed[1][same]


@pytest.mark.parametrize(
    ("send", "code"),
    [
        (lambda pid: os.kill(pid, signal.SIGINT), 130),
        (lambda pid: os.killpg(pid, signal.SIGINT), 130),
        (lambda pid: os.kill(pid, signal.SIGTERM), 143),
    ],
    ids=["ctrl-c-to-the-process", "ctrl-c-to-its-group", "sigterm"],
)
def test_a_signal_in_the_middle_ends_everything(tmp_path: Path, send: Callable[[int], None], code: int) -> None:
    with running(tmp_path, "--rounds", "9999", "--kill-agents") as demo:
        demo.read_until("round   2/9999")
        assert len(demo.processes()) >= 7
        send(demo.process.pid)
        _, errors = demo.process.communicate(timeout=20)
        assert demo.process.returncode == code
        assert demo.left_behind() == []
        assert errors == "stopped; every process has ended\n"


def test_an_agent_that_was_killed_by_others_is_replaced(tmp_path: Path) -> None:
    with running(tmp_path, "--rounds", "9999") as demo:
        demo.read_until("round   2/9999")
        victim = next(process for process in demo.processes() if process.cmdline()[-1].endswith("site-3"))
        victim.kill()
        demo.read_until(f"site-3: agent {victim.pid} ended by itself")
        demo.read_until("/9999  federated")


@pytest.mark.parametrize(("program", "name"), [("server", "the server"), ("client_jobs", "the client jobs")])
def test_a_server_or_client_jobs_that_were_killed_by_others_are_replaced(
    tmp_path: Path, program: str, name: str
) -> None:
    with running(tmp_path, "--rounds", "9999") as demo:
        demo.read_until("round   2/9999")
        victim = next(each for each in demo.processes() if f"redflare_workers.demo.{program}" in each.cmdline())
        victim.kill()
        demo.read_until(f"{name}: {victim.pid} ended by itself")
        demo.read_until("/9999  federated")


def test_ctrl_c_while_the_agents_start_ends_everything(tmp_path: Path) -> None:
    with running(tmp_path, "--rounds", "9999") as demo:
        wait_until(lambda: len(demo.processes()) >= 3, 20)
        os.killpg(demo.process.pid, signal.SIGINT)
        _, errors = demo.process.communicate(timeout=20)
        assert demo.process.returncode == 130
        assert demo.left_behind() == []
        assert "Traceback" not in errors


def test_killing_the_demo_itself_leaves_nothing_behind(tmp_path: Path) -> None:
    with running(tmp_path, "--rounds", "9999") as demo:
        demo.read_until("round   2/9999")
        os.kill(demo.process.pid, signal.SIGKILL)
        demo.process.wait()
        wait_until(lambda: demo.left_behind() == [], 20)


def test_a_server_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    with running(tmp_path, "--rounds", "1", "--url", "redis://127.0.0.1:1/0") as demo:
        _, errors = demo.process.communicate(timeout=60)
        assert demo.process.returncode == 3
        assert "127.0.0.1:1" in errors
        assert "Traceback" not in errors
        assert demo.left_behind() == []
