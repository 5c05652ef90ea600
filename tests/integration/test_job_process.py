"""Processes of jobs: output, exit, descendants, and the death of the parent."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from redflare_workers.processes import JobProcess, ProcessMark
from redflare_workers.processes.exit_code import describe_exit
from redflare_workers.processes.job_process import MAX_LOG
from redflare_workers.processes.process_table import (
    MARK,
    kill_group,
    kill_marked,
    marked,
    start_time,
    wait_gone,
    wait_marked_gone,
)

from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")

#: Starts a process that leaves its group and its parent.
LEAVE = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], start_new_session=True)
print(child.pid, flush=True)
"""
#: A job's process that runs until it is asked to end.
OBEYING = """
import sys, threading
from redflare_workers.processes import ProcessEnding
ended = threading.Event()
ending = ProcessEnding(print, grace={grace})
ending.watch()
if {attached}:
    ending.attach(lambda reason: (print("reason:", reason, flush=True), ended.set()))
print("ready", flush=True)
ended.wait() if {listens} else threading.Event().wait()
ending.finish()
"""


class RecordedProcess:
    """A process, its lines of output and its exit code."""

    def __init__(
        self, folder: Path, program: str, max_log: int = MAX_LOG, max_line: int | None = 2000, cwd: Path | None = None
    ) -> None:
        self.mark = uuid4().hex
        self.log = folder / "log.txt"
        self.lines: list[str] = []
        self.code: int | None = None
        self._exited = threading.Event()
        command = [sys.executable, "-c", textwrap.dedent(program)]
        self.process = JobProcess(
            "job",
            command,
            mark=self.mark,
            log=self.log,
            on_lines=self.lines.extend,
            on_exit=self._on_exit,
            cwd=cwd,
            max_log=max_log,
            max_line=max_line,
        )
        self.started = self.process.start()

    def _on_exit(self, code: int) -> None:
        self.code = code
        self._exited.set()

    def wait(self) -> int:
        assert self._exited.wait(20), self.lines
        assert self.code is not None
        return self.code

    def wait_for_line(self, line: str) -> None:
        wait_until(lambda: line in self.lines, 20, f"{line!r} in {self.lines}")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    before = set(threading.enumerate())
    yield tmp_path
    wait_until(lambda: set(threading.enumerate()) <= before, what="threads end")


@pytest.mark.parametrize(
    ("program", "code"),
    [("", 0), ("raise SystemExit(9)", 9), ("import os; os.kill(os.getpid(), 9)", -9)],
    ids=["well", "with a code", "by a signal"],
)
def test_an_exit_is_reported_once(folder: Path, program: str, code: int) -> None:
    assert RecordedProcess(folder, program).wait() == code


def test_an_exit_is_reported_even_if_the_kernel_keeps_no_children_for_this_process(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The parent of this process may ignore SIGCHLD, which is inherited."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        RecordedProcess(folder, "pass").wait()
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert "call signal.signal(signal.SIGCHLD, signal.SIG_DFL) at its start" in caplog.text


def test_output_is_logged_and_forwarded_line_by_line(folder: Path) -> None:
    program = "import sys; print('one'); print('two', file=sys.stderr); sys.stdout.write('three\\r\\nfour')"
    recorded = RecordedProcess(folder, program)
    recorded.wait()
    assert recorded.lines == ["one", "two", "three", "four"]
    assert recorded.process.tail() == recorded.lines
    assert recorded.log.read_bytes() == b"one\ntwo\nthree\r\nfour"


def test_the_log_shows_control_codes_and_a_terminal_does_not_obey_them(folder: Path) -> None:
    program = "import os; [os.write(1, each) for each in (b'a\\x1b[2J\\xe2\\x80', b'\\xaeb\\r', b'\\nc\\rd\\xff')]"
    recorded = RecordedProcess(folder, program)
    recorded.wait()
    assert recorded.log.read_bytes() == rb"a\x1b[2J\u202eb" + b"\r\n" + rb"c\rd\xff"


def test_the_log_and_all_files_of_the_process_are_for_their_owner_only(folder: Path) -> None:
    before = os.umask(0o022)
    try:
        recorded = RecordedProcess(folder, "import os; os.mkdir('made'); open('made/model', 'w').close()", cwd=folder)
        recorded.wait()
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*")}
    assert modes == {"log.txt": 0o600, "made": 0o700, "model": 0o600}


def test_sizes_of_log_and_lines_are_limited(folder: Path) -> None:
    recorded = RecordedProcess(
        folder, "print('x' * 100_000); [print('y' * 50) for _ in range(2000)]; print('end')", max_log=50_000
    )
    recorded.wait()
    assert recorded.log.stat().st_size < 50_000 + (1 << 16) + 100
    assert max(map(len, recorded.lines)) <= 2000
    assert recorded.lines[-1] == "end"


def test_a_line_of_any_length_is_forwarded_whole_where_lines_are_not_cut(folder: Path) -> None:
    recorded = RecordedProcess(folder, "print('x' * 3_000_000); print('after')", max_line=None)
    recorded.wait()
    assert "".join(recorded.lines) == "x" * 3_000_000 + "after"
    assert recorded.lines[-1] == "after"


def test_a_reader_of_lines_that_fails_does_not_stop_the_log(folder: Path) -> None:
    recorded = RecordedProcess(folder, "print('one'); print('two')")
    recorded.process._on_lines = lambda lines: 1 / 0
    recorded.wait()
    assert recorded.log.read_text() == "one\ntwo\n"


def test_its_descendants_have_ended_when_its_exit_is_reported(folder: Path) -> None:
    recorded = RecordedProcess(folder, LEAVE)
    assert recorded.wait() == 0
    assert not start_time(int(recorded.lines[0]))
    assert marked(recorded.mark) == []


def test_a_process_that_cannot_be_started_is_an_error(folder: Path) -> None:
    process = JobProcess("job", ["/no/such"], mark="m", log=folder / "log", on_lines=print, on_exit=print)
    with pytest.raises(FileNotFoundError):
        process.start()
    process.kill()
    process.release()


# -- the end, seen from inside -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_is_a_reason_to_end(folder: Path, number: signal.Signals) -> None:
    recorded = RecordedProcess(folder, OBEYING.format(grace=4, attached=True, listens=True))
    recorded.wait_for_line("ready")
    os.kill(recorded.started.pid, number)
    assert recorded.wait() == 0
    assert f"reason: it got {number.name}" in recorded.lines


def test_the_end_of_the_lifeline_is_a_reason_to_end(folder: Path) -> None:
    recorded = RecordedProcess(folder, OBEYING.format(grace=20, attached=True, listens=True))
    recorded.wait_for_line("ready")
    recorded.process.release()
    recorded.wait()
    assert "reason: its parent process is gone" in recorded.lines


@pytest.mark.parametrize("attached", [True, False])
def test_a_process_that_does_not_end_kills_itself_when_the_parent_is_gone(folder: Path, attached: bool) -> None:
    recorded = RecordedProcess(folder, OBEYING.format(grace=0.2, attached=attached, listens=False))
    recorded.wait_for_line("ready")
    recorded.process.release()
    assert recorded.wait() == -signal.SIGKILL


def test_data_of_the_parent_arrives_until_the_lifeline_is_closed(folder: Path) -> None:
    recorded = RecordedProcess(
        folder,
        """
        import threading
        from redflare_workers.processes import ProcessEnding
        ended = threading.Event()
        ending = ProcessEnding(lambda reason: ended.set(), grace=20, on_input=lambda data: print(data, flush=True))
        ending.watch(signals=False)
        print("ready", flush=True)
        ended.wait()
        """,
    )
    recorded.wait_for_line("ready")
    recorded.process.send(b"one")
    recorded.wait_for_line("b'one'")
    recorded.process.release()
    recorded.process.send(b"two")
    assert recorded.wait() == 0
    assert not any("two" in line for line in recorded.lines)


def test_signals_keep_their_handlers_where_they_are_not_watched(folder: Path) -> None:
    program = OBEYING.replace("watch()", "watch(signals=False)")
    recorded = RecordedProcess(folder, program.format(grace=20, attached=True, listens=True))
    recorded.wait_for_line("ready")
    os.kill(recorded.started.pid, signal.SIGTERM)
    assert recorded.wait() == -signal.SIGTERM


def test_a_reason_that_came_before_attach_is_passed_on_then() -> None:
    from redflare_workers.processes import ProcessEnding

    reasons: list[str] = []
    ending = ProcessEnding(reasons.append)
    ending.reason = "too early"
    ending.attach(reasons.append)
    assert reasons == ["too early"]


# -- processes of an earlier parent ------------------------------------------------------------------------------------


@pytest.fixture
def orphans() -> Iterator[tuple[ProcessMark, int]]:
    """Start a process that starts another one in a session of its own."""
    mark = uuid4().hex
    program = LEAVE + "import signal; signal.pause()"
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        env={**os.environ, MARK: mark},
        start_new_session=True,
        text=True,
    ) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        yield ProcessMark(pid=process.pid, started=start_time(process.pid), mark=mark), child
        process.kill()
    kill_marked(mark)


def test_an_orphan_is_found_and_killed_with_all_that_it_has_started(orphans: tuple[ProcessMark, int]) -> None:
    mark, child = orphans
    # a program that was started a moment ago has no environment yet
    wait_until(lambda: sorted(marked(mark.mark)) == sorted([mark.pid, child]))
    assert set(mark.reap(0.1)) == {mark.pid, child}
    assert not start_time(mark.pid)
    assert not start_time(child)
    assert mark.reap(0.1) == []


def test_a_process_that_got_the_number_of_another_is_left_alone(orphans: tuple[ProcessMark, int]) -> None:
    mark, child = orphans
    other = ProcessMark(pid=mark.pid, started="1", mark="of another")
    assert other.reap(5.0) == []
    kill_group(mark.pid, "1")
    assert start_time(mark.pid) == mark.started
    assert start_time(child)


def test_waiting_for_a_process_ends_when_it_does(orphans: tuple[ProcessMark, int]) -> None:
    mark, _ = orphans
    assert not wait_gone(mark.pid, mark.started, 0.05)
    threading.Timer(0.1, os.kill, (mark.pid, signal.SIGKILL)).start()
    assert wait_gone(mark.pid, mark.started, 20)
    assert wait_gone(mark.pid, "", 20)


def test_an_empty_mark_finds_no_process() -> None:
    assert marked("") == []
    assert kill_marked("") == []


@pytest.mark.parametrize(
    ("code", "text"),
    [(0, "exit code 0 (SUCCESS)"), (102, "exit code 102 (UNSAFE)"), (77, "exit code 77"), (-9, "killed by SIGKILL"),
     (-63, "killed by signal 63")],
)  # fmt: skip
def test_exit_codes_are_described(code: int, text: str) -> None:
    assert describe_exit(code) == text


def test_processes_are_found_by_a_mark_in_another_variable() -> None:
    mark = uuid4().hex
    command = [sys.executable, "-c", "import signal; signal.pause()"]
    with subprocess.Popen(command, env={**os.environ, "OTHER_MARK": mark}) as process:
        assert marked(mark) == []
        assert wait_marked_gone(mark, 0.0)
        # its environment is that of this process until it runs its own program
        wait_until(lambda: marked(mark, "OTHER_MARK") == [process.pid])
        assert not wait_marked_gone(mark, 0.0, "OTHER_MARK")
        assert kill_marked(mark, variable="OTHER_MARK") == [process.pid]
        assert wait_marked_gone(mark, 0.0, "OTHER_MARK")
