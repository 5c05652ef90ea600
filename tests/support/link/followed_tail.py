"""A tail read in a thread, so that a test can wait for each event with a timeout."""

from __future__ import annotations

import queue
import re
import threading
from types import TracebackType

from redflare_broker.inspection.tail import Tail
from redflare_broker.inspection.tail_event import TailEvent

from tests.support.link.steps import LinkSteps


class FollowedTail:
    """A tail, and the queue of its events."""

    def __init__(self, tail: Tail) -> None:
        self._tail = tail
        self._events: queue.Queue[TailEvent | None] = queue.Queue()
        self._thread = threading.Thread(target=self._collect, daemon=True)
        self.seen: list[str] = []

    def expect(self, kind: str, pattern: str) -> TailEvent:
        """Wait for the next event of this kind and text; skip others."""
        while True:
            try:
                event = self._events.get(timeout=10)
            except queue.Empty:
                raise AssertionError(f"no {kind} event like {pattern!r}, but: {self.seen}") from None
            assert event is not None, f"the tail has ended after {self.seen}"
            self.seen.append(f"{event.kind}: {event.text}")
            if event.kind == kind and re.search(pattern, event.text):
                return event

    def _collect(self) -> None:
        for event in self._tail:
            self._events.put(event)
        self._events.put(None)

    def __enter__(self) -> FollowedTail:
        self._tail.__enter__()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tail.close()
        self._thread.join(timeout=10)
        assert not self._thread.is_alive()


def follow_one_task(link: LinkSteps, events: FollowedTail) -> None:
    """Run one task from end to end, and wait for the event of each step before the next."""
    link.hello("cj", "cj-host:101:c")
    events.expect("cj", "CJ cj-host:101 connected")
    link.assign("t1")
    entry = events.expect("task", "task 'train' in the stream")
    assert (entry.task_id, entry.facts["session"]) == ("t1", "cj-host:101:c")
    link.hello("agent", "agent-host:201:d")
    events.expect("agent", "agent agent-host:201 connected")
    link.take("t1")
    assert events.expect("ledger", "^FETCHED: fetched by agent agent-host:201:d$").task_id == "t1"
    link.submit("t1")
    events.expect("ledger", "^SUBMITTED: .* rc OK$")
    link.settle("t1")
    events.expect("ledger", "^ACCEPTED$")
