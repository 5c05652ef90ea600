"""``StreamReceiver``: the streams that come in, and a watcher that ends those whose sender is dead."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from redflare_broker.cell.cell import LATER, HandlerResult, Request
from redflare_broker.errors import RedflareError

from redflare_workers.apis.fl_constant import ReturnCode
from redflare_workers.apis.shareable import ReservedHeaderKey, make_reply
from redflare_workers.protocol.shareable_codec import to_message

from .aux_runner import ContextMaker
from .peer_sender import PeerSender
from .stream_session import UNKNOWN_STREAM, Answers, Processing, StreamSession, answer_again
from .wire import CHANNEL, MESSAGE, RC, SEQ, STREAM_ID, TOPIC, WINDOW

logger = logging.getLogger(__name__)

_ANY: Final = "*"
#: Objects that a sender may have in flight, at most.
_MOST: Final = 16
#: Streams that are remembered after their end: no late object begins one anew, and a lost reply is sent again.
_REMEMBERED: Final = 100


class _Refusal(NamedTuple):
    """Why an object is not taken."""

    rc: str
    text: str
    #: this process, if it does not know the stream
    unknown_to: str = ""


@dataclass(slots=True, eq=False)
class StreamReceiver:
    """The streams that come to one engine. Thread-safe."""

    engine: ContextMaker
    sender: PeerSender
    _changed: threading.Condition = field(default_factory=threading.Condition, init=False)
    _registered: dict[tuple[str, str], Processing] = field(default_factory=dict, init=False)
    #: by the sender's cell and the stream's id
    _sessions: dict[tuple[str, str], StreamSession] = field(default_factory=dict, init=False)
    #: the last that are over, the oldest first
    _over: dict[tuple[str, str], Answers] = field(default_factory=dict, init=False)
    _watcher: threading.Thread | None = field(default=None, init=False)
    _closed: bool = field(default=False, init=False)

    def register(self, channel: str, topic: str, processing: Processing) -> None:
        """Register consumers, in place of earlier ones; as ``JobMessaging.register_stream_processing``."""
        with self._changed:
            self._registered[channel, topic] = processing

    def on_object(self, request: Request) -> HandlerResult:
        """Handle an object of a stream."""
        meta = request.meta
        stream_id, seq = meta.get(STREAM_ID), meta.get(SEQ)
        if not isinstance(stream_id, str) or not stream_id or type(seq) is not int or seq < 0:
            text = f"no stream id, or no object number: {meta!r:.300}"
            return _refuse(request, _Refusal(ReturnCode.BAD_REQUEST_DATA, text))
        with self._changed:
            session = self._sessions.get((request.origin, stream_id))
            if session is None:
                if answer_again(self._over.get((request.origin, stream_id), {}), seq, request):
                    return LATER
                made = self._begin(request, stream_id, seq)
                if not isinstance(made, StreamSession):
                    return _refuse(request, made)
                session = made
        session.take(seq, request)
        return LATER

    def on_end(self, request: Request) -> HandlerResult:
        """End a stream because its sender has ended it."""
        stream_id, rc = request.meta.get(STREAM_ID), request.meta.get(RC)
        with self._changed:
            session = self._sessions.get((request.origin, stream_id)) if isinstance(stream_id, str) else None
        if session is not None:
            session.end(rc if isinstance(rc, str) and rc else ReturnCode.TASK_ABORTED)
        return None

    def close(self) -> None:
        """End all streams, and accept no more. May be called again."""
        with self._changed:
            self._closed = True
            sessions = list(self._sessions.values())
            watcher = self._watcher
            self._changed.notify_all()
        for session in sessions:
            session.end(ReturnCode.TASK_ABORTED)
        if watcher is not None and watcher is not threading.current_thread():
            watcher.join(5.0)

    def __len__(self) -> int:
        return len(self._sessions)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _begin(self, request: Request, stream_id: str, seq: int) -> StreamSession | _Refusal:
        """Begin a session for a new stream, or refuse it."""
        channel, topic, window = (request.meta.get(key) for key in (CHANNEL, TOPIC, WINDOW))
        if self._closed:
            return _Refusal(ReturnCode.TASK_ABORTED, f"{self.sender.name} accepts no more streams")
        if (request.origin, stream_id) in self._over:
            return _Refusal(ReturnCode.BAD_REQUEST_DATA, f"object {seq} came after the end of stream {stream_id}")
        if seq != 0:
            text = (
                f"stream {stream_id} is not known here, so object 0 is due, not {seq}: the process that received it "
                "has ended, and its consumer with it; its sender must send all objects again"
            )
            return _Refusal(ReturnCode.BAD_REQUEST_DATA, text, unknown_to=self._instance())
        if not isinstance(channel, str) or not isinstance(topic, str) or type(window) is not int or window < 1:
            text = f"a stream needs channel, topic and window: {request.meta!r:.300}"
            return _Refusal(ReturnCode.BAD_REQUEST_DATA, text)
        processing = self._find(channel, topic)
        if processing is None:
            text = f"{self.sender.name} has no consumer for streams of channel {channel!r}, topic {topic!r}"
            return _Refusal(ReturnCode.EXECUTION_EXCEPTION, text)
        session = StreamSession(
            self.engine,
            stream_id,
            request.origin,
            processing,
            min(window, _MOST),
            self.sender.impostor,
            self._forget,
            self._instance(),
        )
        self._sessions[request.origin, stream_id] = session
        if self._watcher is None:
            name = f"redflare-streams-{self.sender.name}"
            self._watcher = threading.Thread(target=self._watch, name=name, daemon=True)
            self._watcher.start()
        return session

    def _instance(self) -> str:
        cell = self.sender.cell
        return cell.instance if cell is not None else ""

    def _find(self, channel: str, topic: str) -> Processing | None:
        for key in ((channel, topic), (channel, _ANY), (_ANY, _ANY)):
            if (found := self._registered.get(key)) is not None:
                return found
        return None

    def _forget(self, session: StreamSession) -> None:
        with self._changed:
            self._sessions.pop((session.origin, session.stream_id), None)
            self._over[session.origin, session.stream_id] = session.answers
            if len(self._over) > _REMEMBERED:
                del self._over[next(iter(self._over))]
            if not self._sessions:
                self._changed.notify_all()

    # -- the watcher ---------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """End the streams whose sender is dead; the thread ends with the last stream."""
        while True:
            cell = self.sender.cell
            pause = max(cell.settings.heartbeat_ttl / 4, 0.2) if cell is not None else 1.0
            with self._changed:
                if not self._closed and self._sessions:
                    self._changed.wait(pause)
                if self._closed or not self._sessions:
                    self._watcher = None
                    return
                now = time.monotonic()
                quiet = [each for each in self._sessions.values() if not each.busy and now - each.touched >= pause]
            for session in quiet:
                if self._is_dead(session):
                    logger.error("stream %s: no heartbeat of its sender %s found", session.stream_id, session.origin)
                    session.end(ReturnCode.COMMUNICATION_ERROR)

    def _is_dead(self, session: StreamSession) -> bool:
        """Whether the sender of a stream is gone, or was replaced by another process."""
        cell = self.sender.cell
        if cell is None or not cell.in_touch:
            return False
        try:
            heartbeat = cell.heartbeat_of(session.origin)
        except RedflareError as error:
            logger.debug("cannot read the heartbeat of %s: %s", session.origin, error)
            return False
        session.missed = session.missed + 1 if heartbeat is None else 0
        if heartbeat is None:
            # not at the first look: both processes may have been stopped, and this one was resumed first
            return session.missed > 1
        session.instance = session.instance or heartbeat.instance
        return session.instance != heartbeat.instance


def _refuse(request: Request, refusal: _Refusal) -> HandlerResult:
    text = f"refused an object from {request.origin} with {refusal.rc}: {refusal.text}"
    level = logging.WARNING if refusal.unknown_to else logging.ERROR
    request.note_fault("refused object of a stream", text, level)
    reply = make_reply(refusal.rc, {ReservedHeaderKey.ERROR: refusal.text})
    if refusal.unknown_to:
        reply.set_header(UNKNOWN_STREAM, refusal.unknown_to)
    meta, data = to_message(reply)
    return ReturnCode.OK, {MESSAGE: meta}, data
