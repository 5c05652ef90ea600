"""``StreamFlow``: the objects of a stream that are on their way, and how long a target may be late."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from redflare_broker.cell.cell_heartbeat import CellHeartbeat
from redflare_broker.cell.multicast import Multicast
from redflare_broker.errors import RedflareError

from redflare_workers.apis.fl_constant import ReturnCode
from redflare_workers.apis.shareable import ReservedHeaderKey, Shareable, make_reply

from .kept_objects import StreamObject
from .peer_sender import PeerSender, Replies
from .stream_session import GRANTED, TAKEN_BY, UNKNOWN_STREAM
from .wire import CHANNEL, END, OBJECT, RC, SEQ, STREAM, STREAM_ID, TOPIC, WINDOW

logger = logging.getLogger(__name__)

#: Seconds without Redis after which a stream is given up.
_PATIENCE: Final = 600.0
#: Seconds between two checks of a target that is late, at most.
_CHECK_EVERY: Final = 1.0
#: Heartbeat intervals after which a heartbeat counts as missed.
_MISSED: Final = 1.5
#: Seconds that a target has at least once it has reconnected: its cell may pause for a second before it writes.
_BACK: Final = 5.0
#: Seconds that a process has at least which was started again: until its run begins, it answers nothing.
_BEGUN: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What the first object of a stream says about it."""

    channel: str
    topic: str
    #: objects that the sender would have on their way
    window: int

    def as_meta(self) -> dict[str, Any]:
        """Return it as meta of the message."""
        return {CHANNEL: self.channel, TOPIC: self.topic, WINDOW: self.window}


@dataclass(slots=True, kw_only=True, eq=False)
class _Flight:
    """An object sent and not yet answered."""

    sent: StreamObject
    replies: Replies
    since: float
    asked: Multicast | None = None


@dataclass(slots=True, kw_only=True, eq=False)
class StreamFlow:
    """The objects on their way to some targets; one thread sends and receives."""

    sender: PeerSender
    #: of the targets' cells, by name
    fqcns: dict[str, str]
    #: the stream's id at each target, by its name
    ids: dict[str, str]
    opening: Opening
    #: wakes ``receive``
    changed: threading.Condition
    #: called while ``receive`` waits, raises what ends the wait
    check: Callable[[], object]
    #: by target: the process whose consumer takes the stream
    _taken_by: dict[str, str] = field(default_factory=dict, init=False)
    _flights: deque[_Flight] = field(default_factory=deque, init=False)
    #: how many objects may be in flight: one, until the targets have granted more
    _credit: int = field(default=1, init=False)
    #: by target: when it last answered
    _answered_at: dict[str, float] = field(default_factory=dict, init=False)
    #: by target that is late: since when, and until when it is excused; and those that are cut off from Redis
    _late: dict[str, float] = field(default_factory=dict, init=False)
    _excused: dict[str, float] = field(default_factory=dict, init=False)
    _cut_off: set[str] = field(default_factory=set, init=False)
    #: by target: the process started again for which it was excused
    _awaited: dict[str, str] = field(default_factory=dict, init=False)

    @property
    def has_room(self) -> bool:
        """Whether another object may be sent now."""
        return len(self._flights) < self._credit

    def send(self, sent: StreamObject) -> None:
        """Send the next object.

        Raises:
            EncodeError: it cannot be sent.
        """
        flight = _Flight(sent=sent, replies=Replies(self.fqcns, self.changed), since=time.monotonic())
        self._flights.append(flight)
        meta = {SEQ: sent.number} | (self.opening.as_meta() if sent.number == 0 else {})
        targets = {name: (fqcn, {**meta, STREAM_ID: self.ids[name]}) for name, fqcn in self.fqcns.items()}
        flight.asked = self.sender.ask_each(STREAM, OBJECT, targets, sent.carried, sent.payload, flight.replies)

    def receive(self) -> tuple[StreamObject, dict[str, Shareable]]:
        """Wait until all targets have answered the oldest object, or count as lost; return it, and their replies."""
        flight = self._flights[0]
        self._wait(flight)
        self._flights.popleft()
        replies = flight.replies.read()
        self._answered_at.update(dict.fromkeys(self.fqcns, time.monotonic()))
        self._late.clear()
        self._excused.clear()
        self._cut_off.clear()
        if flight.sent.number == 0:
            self._open(replies)
        return flight.sent, replies

    def is_restarted(self, name: str, reply: Shareable) -> bool:
        """Whether a reply is of a process that was started again in the middle of the stream, and does not know it."""
        by = reply.get_header(UNKNOWN_STREAM)
        return isinstance(by, str) and name in self._taken_by and by != self._taken_by[name]

    def replace(self, name: str, other: StreamFlow, replies: Sequence[Shareable]) -> None:
        """Go on with a target as another flow has left it; ``replies``: its replies to the objects in flight."""
        self.ids[name] = other.ids[name]
        self._taken_by |= other._taken_by
        self._answered_at |= other._answered_at
        for flight, reply in zip(self._flights, replies, strict=True):
            flight.replies.replace(name, reply)

    def end(self, rc: str) -> None:
        """Stop waiting, and tell targets whose consumer still waits that no more objects come.

        Raises:
            RedflareError: it cannot be sent.
        """
        self.cancel()
        for name, fqcn in self.fqcns.items():
            self.sender.tell(STREAM, END, {name: fqcn}, {STREAM_ID: self.ids[name], RC: rc})

    def cancel(self) -> None:
        """Stop waiting for the objects in flight."""
        for flight in self._flights:
            if flight.asked is not None:
                flight.asked.cancel()

    def __len__(self) -> int:
        return len(self._flights)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _open(self, replies: dict[str, Shareable]) -> None:
        """Note what the targets grant in their first reply, and which processes they are."""
        granted = [reply.get_header(GRANTED) for reply in replies.values()]
        if all(isinstance(each, int) and each > 0 for each in granted):
            self._credit = min(self.opening.window, *granted)
        for name, reply in replies.items():
            if isinstance(by := reply.get_header(TAKEN_BY), str):
                self._taken_by[name] = by

    def _wait(self, flight: _Flight) -> None:
        while True:
            with self.changed:
                missing = flight.replies.missing()
                if not missing:
                    return
                self.check()
                now = time.monotonic()
                due = min(self._due(flight, name) for name in missing)
                if due > now:
                    self.changed.wait(min(due - now, 3600.0))
                    continue
                late = [name for name in missing if self._due(flight, name) <= now]
            for name in late:
                if (left := self._excuse(name, flight)) > 0:
                    self._excused[name] = time.monotonic() + left
                    continue
                text = f"{name} did not answer an object of stream {self.ids[name]} within {flight.sent.timeout:g} s"
                flight.replies.put(name, make_reply(ReturnCode.TIMEOUT, {ReservedHeaderKey.ERROR: text}))

    def _last_answer(self, flight: _Flight, name: str) -> float:
        return max(flight.since, self._answered_at.get(name, 0.0))

    def _due(self, flight: _Flight, name: str) -> float:
        """When a target that does not answer counts as lost; one whose object is still being written has more time."""
        written = flight.asked is None or flight.asked.is_written(name)
        timeout = flight.sent.timeout
        due = self._last_answer(flight, name) + (timeout if written else max(_PATIENCE, timeout))
        return max(due, self._excused.get(name, 0.0))

    def _excuse(self, name: str, flight: _Flight) -> float:
        """Seconds that a late target still has, because it, or this process, was cut off from Redis; 0: it is lost.

        Its heartbeat shows which: one that has beaten since it is late is connected, and slow; one that is dead has no
        heartbeat any more; that of another process says that it was started again.
        """
        cell, now = self.sender.cell, time.monotonic()
        timeout = flight.sent.timeout
        if cell is None or now - self._last_answer(flight, name) >= max(_PATIENCE, timeout):
            return 0.0
        late_since = self._late.setdefault(name, now)
        try:
            heartbeat = cell.heartbeat_of(self.fqcns[name])
        except RedflareError as error:
            logger.debug("stream %s: cannot read the heartbeat of %s: %s", self.ids[name], name, error)
            self._late[name] = now
            self._cut_off.add(name)
            return _CHECK_EVERY
        if heartbeat is None:
            # not at the first look: both processes may have been stopped, and this one was resumed first
            return 0.0 if now > late_since else min(cell.interval, _CHECK_EVERY)
        return self._excuse_living(name, heartbeat, timeout, now - late_since)

    def _excuse_living(self, name: str, heartbeat: CellHeartbeat, timeout: float, late_for: float) -> float:
        known = self._taken_by.setdefault(name, heartbeat.instance)
        if heartbeat.instance not in (known, self._awaited.get(name)):
            self._awaited[name] = heartbeat.instance
            return max(timeout, _BEGUN)
        if heartbeat.age >= late_for:
            if heartbeat.age > _MISSED * heartbeat.interval:
                self._cut_off.add(name)
            return min(heartbeat.interval / 4, _CHECK_EVERY)
        if name not in self._cut_off:
            return 0.0
        # it has reconnected: it has the whole timeout once more, and must open its other connections first
        self._cut_off.discard(name)
        del self._late[name]
        return max(timeout, _BACK)
