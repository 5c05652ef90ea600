"""One stream at its sender: produce, send, wait for the replies, hand them to the producer; a window at a time."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final

from redflare_broker.cell.multicast import Multicast
from redflare_broker.errors import RedflareError

from redflare_workers.apis.fl_constant import ReturnCode
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.shareable import ReservedHeaderKey, Shareable, make_reply
from redflare_workers.apis.signal import Signal
from redflare_workers.apis.streaming import (
    ObjectProducer,
    ProgressCallback,
    StreamContext,
    StreamContextKey,
    StreamProgress,
)

from .peer_sender import PeerSender, Replies, is_triggered, outgoing, watching
from .stream_session import CONTEXT, GRANTED
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
#: Keys that a context has only at a receiver, and that are not sent with a stream that is passed on.
_OF_RECEIVER: Final = frozenset({StreamContextKey.RC, StreamContextKey.END_STREAM})


@dataclass(slots=True, kw_only=True, eq=False)
class _UnacknowledgedObject:
    """An object sent and not yet acknowledged."""

    replies: Replies
    timeout: float
    nbytes: int
    since: float
    asked: Multicast | None = None


class _Aborted(Exception):
    """The run was aborted, or the streamer shut down."""


@dataclass(slots=True, kw_only=True, eq=False)
class OutgoingStream:
    """One stream; ``run`` it, once."""

    sender: PeerSender
    id: str
    #: of the targets' cells, by name
    fqcns: dict[str, str]
    producer: ObjectProducer
    #: the sender's stream context
    context: StreamContext
    fl_ctx: FLContext
    #: log failures at DEBUG only
    optional: bool
    progress_cb: ProgressCallback | None
    _abort_signal: Signal | None = field(init=False)
    _changed: threading.Condition = field(default_factory=threading.Condition, init=False)
    _stopped: bool = field(default=False, init=False)
    _flights: deque[_UnacknowledgedObject] = field(default_factory=deque, init=False)
    _sent: int = field(default=0, init=False)
    _answered: int = field(default=0, init=False)
    _nbytes: int = field(default=0, init=False)
    #: how many objects may be in flight: one, until the targets have granted more
    _credit: int = field(default=1, init=False)
    _window: int = field(init=False)
    _exhausted: bool = field(default=False, init=False)
    #: by target: when it last answered
    _answered_at: dict[str, float] = field(default_factory=dict, init=False)
    #: by target that is late: since when, and until when it is excused; and those that are cut off from Redis
    _late: dict[str, float] = field(default_factory=dict, init=False)
    _excused: dict[str, float] = field(default_factory=dict, init=False)
    _cut_off: set[str] = field(default_factory=set, init=False)
    _began: float = field(default_factory=time.monotonic, init=False)

    def __post_init__(self) -> None:
        self._abort_signal = self.fl_ctx.get_run_abort_signal()
        self._window = max(1, int(self.producer.window))

    def run(self) -> tuple[str, Any]:
        """Stream to the end; return the return code and the result."""
        rc = ReturnCode.TASK_ABORTED
        try:
            with watching(self._abort_signal, self._changed):
                rc, result = self._stream()
                return rc, result
        except _Aborted:
            return ReturnCode.TASK_ABORTED, None
        finally:
            for flight in self._flights:
                if flight.asked is not None:
                    flight.asked.cancel()
            self._tell_end(ReturnCode.TASK_ABORTED if rc == ReturnCode.ERROR else rc)

    def stop(self) -> None:
        """End the stream as if the run were aborted; from any thread."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    # -- inside --------------------------------------------------------------------------------------------------------

    def _stream(self) -> tuple[str, Any]:
        while True:
            self._check_aborted()
            while not self._exhausted and len(self._flights) < self._credit:
                self._send_next()
                self._check_aborted()
            if not self._flights:
                return ReturnCode.OK, None
            flight = self._flights[0]
            self._wait(flight)
            self._flights.popleft()
            replies = flight.replies.read()
            self._account(flight, replies)
            result = self.producer.process_replies(replies, self.context, self.fl_ctx)
            if result is not None:
                self._check_aborted()
                # an empty result means failure, by convention
                return (ReturnCode.OK if result else ReturnCode.ERROR), result

    def _send_next(self) -> None:
        produced = self.producer.produce(self.context, self.fl_ctx)
        message, timeout = produced if isinstance(produced, tuple) else (produced, 0.0)
        if message is None:
            self._exhausted = True
            return
        who = type(self.producer).__name__
        if not isinstance(message, Shareable):
            raise TypeError(f"{who} must produce a Shareable, but made a {type(message).__name__}")
        if not isinstance(timeout, float):
            raise TypeError(f"{who} must give the timeout as a float, but gave a {type(timeout).__name__}")
        if timeout <= 0:
            raise ValueError(f"{who} must give a timeout > 0 seconds, but gave {timeout}")
        meta: dict[str, Any] = {STREAM_ID: self.id, SEQ: self._sent}
        if self._sent == 0:
            message = outgoing(message, self.fl_ctx)
            message.set_header(CONTEXT, {key: self.context[key] for key in self.context.keys() - _OF_RECEIVER})
            meta[CHANNEL] = self.context[StreamContextKey.CHANNEL]
            meta[TOPIC] = self.context[StreamContextKey.TOPIC]
            meta[WINDOW] = self._window
        replies = Replies(self.fqcns, self._changed)
        flight = _UnacknowledgedObject(replies=replies, timeout=timeout, nbytes=_size(message), since=time.monotonic())
        self._flights.append(flight)
        self._sent += 1
        flight.asked = self.sender.ask(STREAM, OBJECT, self.fqcns, meta, message, replies)

    def _wait(self, flight: _UnacknowledgedObject) -> None:
        """Wait until all targets have answered, or count as lost."""
        while True:
            with self._changed:
                missing = flight.replies.missing()
                if not missing:
                    return
                self._check_aborted()
                now = time.monotonic()
                due = min(self._due(flight, name) for name in missing)
                if due > now:
                    self._changed.wait(min(due - now, 3600.0))
                    continue
                late = [name for name in missing if self._due(flight, name) <= now]
            for name in late:
                if (left := self._excuse(name, flight)) > 0:
                    self._excused[name] = time.monotonic() + left
                    continue
                text = f"{name} did not answer an object of stream {self.id} within {flight.timeout:g} s"
                flight.replies.put(name, make_reply(ReturnCode.TIMEOUT, {ReservedHeaderKey.ERROR: text}))

    def _last_answer(self, flight: _UnacknowledgedObject, name: str) -> float:
        return max(flight.since, self._answered_at.get(name, 0.0))

    def _due(self, flight: _UnacknowledgedObject, name: str) -> float:
        """When a target that does not answer counts as lost; one whose object is still being written has more time."""
        written = flight.asked is None or flight.asked.is_written(name)
        due = self._last_answer(flight, name) + (flight.timeout if written else max(_PATIENCE, flight.timeout))
        return max(due, self._excused.get(name, 0.0))

    def _excuse(self, name: str, flight: _UnacknowledgedObject) -> float:
        """Seconds that a late target still has, because it, or this process, was cut off from Redis; 0: it is lost.

        Its heartbeat shows which: one that has beaten since it is late is connected, and slow; one that is dead has no
        heartbeat any more.
        """
        cell, now = self.sender.cell, time.monotonic()
        if cell is None or now - self._last_answer(flight, name) >= max(_PATIENCE, flight.timeout):
            return 0.0
        late_since = self._late.setdefault(name, now)
        try:
            heartbeat = cell.heartbeat_of(self.fqcns[name])
        except RedflareError as error:
            logger.debug("stream %s: cannot read the heartbeat of %s: %s", self.id, name, error)
            self._late[name] = now
            self._cut_off.add(name)
            return _CHECK_EVERY
        if heartbeat is None:
            # not at the first look: both processes may have been stopped, and this one was resumed first
            return 0.0 if now > late_since else min(cell.interval, _CHECK_EVERY)
        if heartbeat.age >= now - late_since:
            if heartbeat.age > _MISSED * heartbeat.interval:
                self._cut_off.add(name)
            return min(heartbeat.interval / 4, _CHECK_EVERY)
        if name not in self._cut_off:
            return 0.0
        # it has reconnected: it has the whole timeout once more, and must open its other connections first
        self._cut_off.discard(name)
        del self._late[name]
        return max(flight.timeout, _BACK)

    def _account(self, flight: _UnacknowledgedObject, replies: dict[str, Shareable]) -> None:
        now = time.monotonic()
        self._answered_at.update(dict.fromkeys(self.fqcns, now))
        self._late.clear()
        self._excused.clear()
        self._cut_off.clear()
        granted = [reply.get_header(GRANTED) for reply in replies.values()]
        if self._answered == 0 and all(isinstance(each, int) and each > 0 for each in granted):
            self._credit = min(self._window, *granted)
        for name, reply in replies.items():
            if (error := reply.get_header(ReservedHeaderKey.ERROR)) is not None:
                level = logging.DEBUG if self.optional else logging.ERROR
                text = "stream %s to %s, object %d: %s: %s"
                logger.log(level, text, self.id, name, self._answered, reply.get_return_code(), error)
        self._answered += 1
        self._nbytes += flight.nbytes
        if self.progress_cb is not None:
            self.progress_cb(StreamProgress(objects=self._answered, nbytes=self._nbytes, seconds=now - self._began))

    def _check_aborted(self) -> None:
        if self._stopped or is_triggered(self._abort_signal):
            raise _Aborted

    def _tell_end(self, rc: str) -> None:
        """Tell targets whose consumer still waits that no more objects come."""
        if not self._sent:
            return
        try:
            self.sender.tell(STREAM, END, self.fqcns, {STREAM_ID: self.id, RC: rc})
        except RedflareError as error:
            logger.debug("stream %s: cannot send its end: %s", self.id, error)

    def __repr__(self) -> str:
        return f"<OutgoingStream {self.id} to {sorted(self.fqcns)}: {self._answered} of {self._sent} answered>"


def _size(message: Shareable) -> int:
    """Return the bytes of a message's buffers, roughly."""
    sizes = (getattr(value, "nbytes", None) or _length(value) for key, value in message.items() if key != "__headers__")
    return sum(sizes)


def _length(value: object) -> int:
    if isinstance(value, bytes | bytearray):
        return len(value)
    if isinstance(value, dict):
        return sum(getattr(each, "nbytes", None) or _length(each) for each in value.values())
    return 0
