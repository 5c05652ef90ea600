"""``Tail``: follows one link live: its streams, the ledgers of its tasks, both sides, and its wake-up messages.

Two threads feed one queue, both blocked in Redis: one reads the streams (XREAD BLOCK), the other waits on a
``KeyspaceFeed`` and reads the ledger or the sides whose keys have changed. Both reconnect for as long as it takes, and
at once when Sentinels have made another server the primary.
After that the streams are read from their start, without the entries reported already, and so are the ledgers of tasks
that were or are open. An entry that was added and deleted while the connection was down is not reported.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Final, Literal, cast

from redflare_broker.errors import RedflareError, Unavailable
from redflare_broker.keys import DEFAULT_NAMESPACE
from redflare_broker.runtime.keyspace_feed import KeyspaceFeed, KeyspaceMessage
from redflare_broker.runtime.primary_watch import PrimaryWatch
from redflare_broker.transport.connection import Connection
from redflare_broker.transport.server import Server
from redflare_broker.util.backoff import Backoff

from .federation import Inspector
from .tail_event import TailEvent, ledger_events, lost_event, presence_event, stream_event

_BLOCK_SECONDS: Final = 30.0
_MARGIN_SECONDS: Final = 5.0
#: How many reported entries and ledgers are remembered.
_REMEMBERED: Final = 1000

#: Yields events, and None when its connection is open.
_Follower = Callable[[], Iterator[TailEvent | None]]


class Tail:
    """The events of one link, first its present state, then every change; a context manager and an iterator.

    The iterator ends when the tail is closed; it raises ServerError or ConfigError when reconnecting cannot help.
    """

    def __init__(self, server: Server, fqcn: str, namespace: str = DEFAULT_NAMESPACE) -> None:
        self._server = server
        self._inspector = Inspector(server, namespace)
        self._keys = k = self._inspector.keys.link(fqcn)
        self._feed = KeyspaceFeed(server, k.link, (k.task(""), k.link, k.heartbeat("")), (k.abort, k.notice))
        self._primary_watch = PrimaryWatch(server)
        self._events: queue.SimpleQueue[TailEvent | RedflareError | None] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._guard = threading.Lock()
        self._connection: Connection | None = None
        self._entries = _Reported()
        self._ledgers = _Reported()
        self._unsettled: set[str] = set()
        #: whether the server does not push changes of keys; known once the feed is open
        self._untracked = False
        self._sides = _Reported()
        self._threads = [
            threading.Thread(target=self._supervise, args=(follow,), name=f"redflare-tail-{name}", daemon=True)
            for name, follow in (("streams", self._follow_streams), ("changes", self._follow_changes))
        ]

    def __enter__(self) -> Tail:
        self._primary_watch.start()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """End both threads, then the iterator; may be called from any thread, and repeatedly."""
        self._stopped.set()
        with self._guard:
            if self._connection is not None:
                self._connection.interrupt()
        self._feed.close()
        self._primary_watch.stop()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()
        self._events.put(None)

    def __iter__(self) -> Iterator[TailEvent]:
        while (event := self._events.get()) is not None:
            if isinstance(event, RedflareError):
                raise event
            yield event

    def _supervise(self, follow: _Follower) -> None:
        """Hand on what a follower yields; start it again, with growing pauses, while Redis is away."""
        backoff, away = Backoff(), False
        while not self._stopped.is_set():
            try:
                for event in follow():
                    if away:
                        self._say("connected again")
                    backoff.reset()
                    away = False
                    if event:
                        self._events.put(event)
            except Unavailable as error:
                if self._stopped.is_set():
                    return
                if not away and follow == self._follow_streams:  # one of the two tells it
                    self._say(f"connection lost, trying again: {error}")
                    away = True
                self._stopped.wait(backoff.next_delay())
            except RedflareError as error:
                self._events.put(error)
                return

    def _say(self, text: str) -> None:
        """Report a change of the connection; it has no time of Redis's clock."""
        self._events.put(TailEvent(time_ms=0, kind="server", fqcn=self._keys.fqcn, text=text))

    def _follow_streams(self) -> Iterator[TailEvent | None]:
        kinds: dict[str, Literal["task", "result"]] = {self._keys.tasks: "task", self._keys.results: "result"}
        last = dict.fromkeys(kinds, "0-0")
        connection = self._server.connection(self._keys.link)
        with self._guard:
            self._connection = connection
            if self._stopped.is_set():
                connection.interrupt()
        try:
            yield None
            while True:
                streams = connection.call(
                    *("XREAD", "BLOCK", round(_BLOCK_SECONDS * 1000), "STREAMS"),
                    *(*last, *last.values()),
                    timeout=_BLOCK_SECONDS + _MARGIN_SECONDS,
                )
                for stream, entries in cast("list[tuple[bytes, list[tuple[bytes, list[bytes]]]]]", streams or []):
                    for raw_id, flat in entries:
                        name, entry_id = stream.decode(), raw_id.decode()
                        last[name] = entry_id
                        if self._entries.is_new(f"{name} {entry_id}", True):
                            event = stream_event(self._keys.fqcn, kinds[name], entry_id, flat)
                            yield event
                            yield from self._poll_untracked(event.task_id)
        finally:
            with self._guard:
                self._connection = None
            connection.close()

    def _follow_changes(self) -> Iterator[TailEvent | None]:
        with self._feed:
            self._untracked = not self._feed.tracked
            yield None
            yield from self._current_state()
            while True:
                event = self._feed.wait()
                if isinstance(event, KeyspaceMessage):
                    message = self._message(event)
                    yield message
                    yield from self._poll_untracked(message.task_id)
                elif event and event.keys is None:
                    yield from self._current_state()
                elif event and event.keys:
                    yield from self._read_changed(event.keys)

    def _message(self, message: KeyspaceMessage) -> TailEvent:
        kind: Literal["abort", "notice"] = "abort" if message.channel == self._keys.abort else "notice"
        verb, _, rest = message.text.partition(" ")
        task_id = rest if verb in _ABOUT_A_TASK else ""
        now = self._inspector.now(self._keys.fqcn)
        return TailEvent(time_ms=now, kind=kind, fqcn=self._keys.fqcn, text=message.text, task_id=task_id)

    def _read_changed(self, changed: tuple[str, ...]) -> Iterator[TailEvent]:
        ledgers = self._keys.task("")
        for key in changed:
            if key.startswith(ledgers):
                yield from self._ledger(key.removeprefix(ledgers))
            else:
                yield from self._presence()

    def _current_state(self) -> Iterator[TailEvent]:
        yield from self._presence()
        status = self._inspector.link(self._keys.fqcn)
        opened = {status.task.task_id} if status.task else set()
        for task_id in sorted(opened | self._unsettled):
            yield from self._ledger(task_id)

    def _poll_untracked(self, task_id: str) -> Iterator[TailEvent]:
        """Read ledger and sides after an entry or a message, if the server does not push changes of keys."""
        if self._untracked:
            if task_id:
                yield from self._ledger(task_id)
            yield from self._current_state()

    def _ledger(self, task_id: str) -> Iterator[TailEvent]:
        """Yield the new states of a task; LOST if it was open and its ledger is gone."""
        task = self._inspector.ledger(self._keys.fqcn, task_id)
        if task is None:
            if task_id in self._unsettled:
                self._unsettled.discard(task_id)
                yield lost_event(self._keys.fqcn, task_id, self._inspector.now(self._keys.fqcn))
            return
        if task.is_settled:
            self._unsettled.discard(task_id)
        else:
            self._unsettled.add(task_id)
        for event in ledger_events(task):
            if self._ledgers.is_new(f"{task_id} {event.facts['status']}", event.time_ms):
                yield event

    def _presence(self) -> Iterator[TailEvent]:
        status = self._inspector.link(self._keys.fqcn)
        for side in (status.agent, status.cj):
            if self._sides.is_new(side.role, (side.state, side.instance)):
                yield presence_event(self._keys.fqcn, side, status.now)


_ABOUT_A_TASK: Final = ("abort", "accepted", "rejected", "resend")


class _Reported:
    """The state reported last of each of the newest names; shared by both threads."""

    def __init__(self) -> None:
        self._known: dict[str, object] = {}
        self._guard = threading.Lock()

    def is_new(self, name: str, state: object) -> bool:
        """Remember a state; whether it differs from the one before."""
        with self._guard:
            before = self._known.pop(name, None)
            self._known[name] = state
            if len(self._known) > _REMEMBERED:
                del self._known[next(iter(self._known))]
            return before != state
