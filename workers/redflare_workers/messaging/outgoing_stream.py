"""One stream at its sender: produce, send, hand the replies to the producer; again for a receiver that is new."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final

from redflare_broker.errors import RedflareError
from redflare_broker.payload.encoded_payload import encode_payload
from redflare_broker.wire.limits import CodecLimits

from redflare_workers.apis.fl_constant import ReturnCode
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.shareable import ReservedHeaderKey, Shareable
from redflare_workers.apis.signal import Signal
from redflare_workers.apis.streaming import (
    ObjectProducer,
    ProgressCallback,
    StreamContext,
    StreamContextKey,
    StreamProgress,
)
from redflare_workers.protocol.shareable_codec import to_message

from .kept_objects import KeptObjects, StreamObject
from .peer_sender import PeerSender, is_triggered, outgoing, watching
from .stream_flow import Opening, StreamFlow
from .stream_session import CONTEXT, TAKEN_BY

logger = logging.getLogger(__name__)

#: How often a stream begins anew at one target, because its process was started again.
_REPEATS: Final = 10
#: Keys that a context has only at a receiver, and that are not sent with a stream that is passed on.
_OF_RECEIVER: Final = frozenset({StreamContextKey.RC, StreamContextKey.END_STREAM})


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
    _sent: int = field(default=0, init=False)
    _answered: int = field(default=0, init=False)
    _nbytes: int = field(default=0, init=False)
    _exhausted: bool = field(default=False, init=False)
    _flow: StreamFlow = field(init=False)
    _kept: KeptObjects = field(init=False)
    #: by target: how often the stream has begun anew there
    _repeats: dict[str, int] = field(default_factory=dict, init=False)
    _began: float = field(default_factory=time.monotonic, init=False)

    def __post_init__(self) -> None:
        self._abort_signal = self.fl_ctx.get_run_abort_signal()
        self._flow = self._new_flow(self.fqcns, dict.fromkeys(self.fqcns, self.id))
        self._kept = KeptObjects(self.producer.keep_bytes, self.id)

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
            self._kept.close()
            self._end(ReturnCode.TASK_ABORTED if rc == ReturnCode.ERROR else rc)

    def stop(self) -> None:
        """End the stream as if the run were aborted; from any thread."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    # -- inside --------------------------------------------------------------------------------------------------------

    def _new_flow(self, fqcns: dict[str, str], ids: dict[str, str]) -> StreamFlow:
        opening = Opening(
            channel=self.context[StreamContextKey.CHANNEL],
            topic=self.context[StreamContextKey.TOPIC],
            window=max(1, int(self.producer.window)),
        )
        return StreamFlow(
            sender=self.sender, fqcns=fqcns, ids=ids, opening=opening, changed=self._changed, check=self._check_aborted
        )

    def _stream(self) -> tuple[str, Any]:
        while True:
            self._check_aborted()
            while not self._exhausted and self._flow.has_room:
                self._send_next()
                self._check_aborted()
            if not len(self._flow):
                return ReturnCode.OK, None
            answered, replies = self._flow.receive()
            replies = {name: self._settled(name, reply) for name, reply in replies.items()}
            self._account(answered, replies)
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
        if self._sent == 0:
            message = outgoing(message, self.fl_ctx)
            message.set_header(CONTEXT, {key: self.context[key] for key in self.context.keys() - _OF_RECEIVER})
        carried, data = to_message(message)
        cell = self.sender.cell
        payload = encode_payload(data, cell.settings.limits if cell is not None else CodecLimits())
        made = StreamObject(number=self._sent, carried=carried, payload=payload, timeout=timeout)
        self._kept.add(made)
        self._sent += 1
        self._flow.send(made)

    def _account(self, answered: StreamObject, replies: dict[str, Shareable]) -> None:
        for name, reply in replies.items():
            if (error := reply.get_header(ReservedHeaderKey.ERROR)) is not None:
                level = logging.DEBUG if self.optional else logging.ERROR
                text = "stream %s to %s, object %d: %s: %s"
                logger.log(level, text, self.id, name, answered.number, reply.get_return_code(), error)
        self._answered += 1
        self._nbytes += answered.nbytes
        if self.progress_cb is not None:
            seconds = time.monotonic() - self._began
            self.progress_cb(StreamProgress(objects=self._answered, nbytes=self._nbytes, seconds=seconds))

    def _check_aborted(self) -> None:
        if self._stopped or is_triggered(self._abort_signal):
            raise _Aborted

    def _end(self, rc: str) -> None:
        """Stop waiting, and tell the targets, if they know of the stream."""
        if not self._sent:
            return
        try:
            self._flow.end(rc)
        except RedflareError as error:
            logger.debug("stream %s: cannot send its end: %s", self.id, error)

    # -- a receiver that is started again ------------------------------------------------------------------------------

    def _settled(self, name: str, reply: Shareable) -> Shareable:
        """Return a target's reply to the object that is due; if its process is new, once it has got all before it."""
        flow = self._flow
        while self.producer.keep_bytes and flow.is_restarted(name, reply):
            repeats = self._repeats[name] = self._repeats.get(name, 0) + 1
            why = self._kept.missing or ("" if repeats <= _REPEATS else f"it was started again {repeats} times")
            if why:
                text = f"{name} was started again in the middle of stream {self.id}, and its objects cannot be repeated"
                reply.set_header(ReservedHeaderKey.ERROR, f"{text}: {why}; stream them again with a new producer")
                break
            logger.warning(
                "stream %s: %s was started again; sending it all %d objects from the first", self.id, name, self._sent
            )
            flow, reply = self._send_again(name)
        return reply

    def _send_again(self, name: str) -> tuple[StreamFlow, Shareable]:
        """Send all objects once more, to one target; return the flow there, and the reply to the object that is due."""
        self._flow.ids[name] = uuid.uuid4().hex
        flow = self._new_flow({name: self.fqcns[name]}, {name: self._flow.ids[name]})
        objects = iter(self._kept)
        in_flight = 1 + len(self._flow)
        replies: deque[Shareable] = deque(maxlen=in_flight)
        left = self._sent
        try:
            while left or len(flow):
                while left and flow.has_room:
                    flow.send(next(objects))
                    left -= 1
                _, answers = flow.receive()
                reply = answers[name]
                replies.append(reply)
                if reply.get_header(TAKEN_BY) is None and reply.get_return_code() != ReturnCode.OK:
                    # no consumer takes it, nor those behind it
                    replies.extend([reply] * in_flight)
                    break
        finally:
            flow.cancel()
        due = replies.popleft()
        self._flow.replace(name, flow, replies)
        return flow, due

    def __repr__(self) -> str:
        return f"<OutgoingStream {self.id} to {sorted(self.fqcns)}: {self._answered} of {self._sent} answered>"
