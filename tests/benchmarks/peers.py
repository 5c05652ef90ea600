"""The two sides of a link as objects for child processes: agents that answer, callers that hand out tasks."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
from redflare_agent import AgentClosed, IPCAgent, TaskResult
from redflare_workers.ipc.exchanger import IPCExchanger, TaskAborted

MB: Final = 1_000_000
#: Longest wait for anything the other side does; a link that is slower than this is broken.
PATIENCE: Final = 60.0


class MeasuredProcess:
    """Memory and processor time of the process that an object lives in."""

    _rss = 0

    def mark_memory(self) -> None:
        """Memory growth is counted from here; call it before anything large is allocated."""
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from VmRSS
        self._rss = _status_bytes("VmRSS")

    def memory_growth(self) -> float:
        """MB by which the highest resident memory since the mark exceeds what was resident at the mark."""
        return (_status_bytes("VmHWM") - self._rss) / MB

    def cpu_seconds(self) -> float:
        """Processor time this process has used."""
        return time.process_time()


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}: memory can be measured on Linux only")


class EchoAgent(MeasuredProcess):
    """Answers every task with its own data, and notes the moments."""

    def __init__(self, url: str, site: str, agent_id: str, workspace: str) -> None:
        self._stamps: queue.SimpleQueue[tuple[float, float, float]] = queue.SimpleQueue()
        self._agent = IPCAgent(url, site, agent_id, workspace)
        self._agent.start()
        self._thread = threading.Thread(target=self._work, name=f"bench-{agent_id}", daemon=True)
        self._thread.start()

    def stamps(self, count: int) -> list[tuple[float, float, float]]:
        """For each of the next ``count`` tasks: when it was in hand, when submit_result was called and returned."""
        return [self._stamps.get(timeout=PATIENCE) for _ in range(count)]

    def close(self) -> None:
        self._agent.stop()
        self._thread.join(PATIENCE)

    def _work(self) -> None:
        try:
            while task := self._agent.get_task():
                taken = time.monotonic()
                result = TaskResult({}, task.data)
                del task  # nothing here keeps the payload in memory
                submitted = time.monotonic()
                self._agent.submit_result(result)
                del result
                self._stamps.put((taken, submitted, time.monotonic()))
        except AgentClosed:
            return


class Caller(MeasuredProcess):
    """Hands out tasks one after another through one exchanger and times each."""

    def __init__(self, url: str, site: str, agent_id: str) -> None:
        self._exchanger = IPCExchanger(redis_url=url, site_name=site, agent_id=agent_id)
        self._exchanger.start()
        self._array: Any = None
        self._running: threading.Thread | None = None

    def round_trips(self, count: int) -> list[tuple[float, float]]:
        """When each of ``count`` tiny tasks was handed out and when its result was in hand, back to back."""
        return [self._round_trip({"x": number}) for number in range(count)]

    def make_array(self, nbytes: int) -> None:
        """Allocate the float32 array that ``send_array`` sends."""
        self._array = np.random.default_rng(1).random(nbytes // 4, np.float32)

    def send_array(self) -> tuple[float, float]:
        """When the array was handed out and when it was back; checks that it is the same."""
        begin = time.monotonic()
        result = self._exchanger.run("payload", {"w": self._array}, timeout=PATIENCE)
        end = time.monotonic()
        back = result.data["w"]
        if back.dtype != np.float32 or not np.array_equal(back[::1024], self._array[::1024]):
            raise RuntimeError(f"the array came back changed: {back!r}")
        return begin, end

    def begin(self, task_name: str) -> None:
        """Hand out a task without waiting for its end."""
        self._running = threading.Thread(target=self._run, args=(task_name,), name="bench-run", daemon=True)
        self._running.start()

    def finish(self) -> None:
        """Wait for the end of the task that was begun."""
        if self._running:
            self._running.join(PATIENCE)

    def abort(self) -> float:
        """Abort the task that was begun; when that was asked for."""
        begin = time.monotonic()
        self._exchanger.abort()
        return begin

    def close(self) -> None:
        self._exchanger.stop()

    def _run(self, task_name: str) -> None:
        with contextlib.suppress(TaskAborted):
            self._exchanger.run(task_name, {"x": 1})

    def _round_trip(self, data: dict[str, int]) -> tuple[float, float]:
        begin = time.monotonic()
        result = self._exchanger.run("tiny", data, timeout=PATIENCE)
        end = time.monotonic()
        if result.data != data:
            raise RuntimeError(f"sent {data!r}, got {result!r} back")
        return begin, end


class HoldingAgent:
    """Takes a task and keeps it until ``finish``, an abort or a kill."""

    def __init__(self, url: str, site: str, agent_id: str, workspace: str) -> None:
        self._agent = IPCAgent(url, site, agent_id, workspace)
        self._started = False
        self._aborted: queue.SimpleQueue[float] = queue.SimpleQueue()

    def take(self) -> tuple[float, float]:
        """Start if need be, and take a task; when start() was called (or the taking began) and when it was in hand."""
        begin = time.monotonic()
        if not self._started:
            self._started = True
            self._agent.start()
        task = self._agent.get_task(timeout=PATIENCE)
        if task is None:
            raise RuntimeError(f"no task came in {PATIENCE:.0f} s")
        taken = time.monotonic()
        self._task = task
        return begin, taken

    def watch(self) -> None:
        """Wait for the abort of the task in a thread, as a training loop would; returns when that thread waits."""
        waiting = threading.Event()
        threading.Thread(target=self._watch, args=(waiting,), name="bench-watch", daemon=True).start()
        waiting.wait(PATIENCE)

    def aborted_at(self) -> float:
        """When the watching thread saw that the task is aborted."""
        return self._aborted.get(timeout=PATIENCE)

    def finish(self) -> bool:
        """Submit a result."""
        return bool(self._agent.submit_result(TaskResult({}, {"x": 1})))

    def close(self) -> None:
        if self._started:
            self._agent.stop()

    def _watch(self, waiting: threading.Event) -> None:
        waiting.set()
        self._task.wait_aborted(PATIENCE)
        self._aborted.put(time.monotonic())
