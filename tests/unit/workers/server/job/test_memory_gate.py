"""Large payloads are handled one at a time, and a stuck one is not waited for for ever."""

from __future__ import annotations

import threading
import time

from redflare_workers.server.job.memory_gate import MemoryGate


def test_only_one_thread_holds_it() -> None:
    gate, inside, most = MemoryGate(), [0], [0]

    def work() -> None:
        for _ in range(50):
            with gate.enter():
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert most == [1]


def test_a_stuck_thread_is_skipped_and_its_late_exit_admits_no_other() -> None:
    gate, leave, left = MemoryGate(patience=0.1), threading.Event(), threading.Event()

    def stuck() -> None:
        with gate.enter():
            leave.wait(10)
        left.set()

    thread = threading.Thread(target=stuck)
    thread.start()
    started = time.monotonic()
    while gate._holder is None:
        threading.Event().wait(0.001)
    with gate.enter():
        assert time.monotonic() - started >= 0.05
        holder = gate._holder
        leave.set()
        assert left.wait(10)
        assert gate._holder is holder
    assert gate._holder is None
    thread.join(10)


def test_an_exception_admits_the_next_thread() -> None:
    gate = MemoryGate()
    try:
        with gate.enter():
            raise ValueError
    except ValueError:
        pass
    with gate.enter():
        assert "taken" in repr(gate)
    assert "free" in repr(gate)
