"""``AuxRunner``: messages between components of the same topic in different processes. After NVFlare's."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, TypeAlias

from redflare_broker.cell.request import HandlerResult, Request
from redflare_broker.errors import BlobMissing, RedflareError
from redflare_broker.util.plain_function import why_not_plain

from redflare_workers.apis.fl_component import FLComponent
from redflare_workers.apis.fl_constant import ReturnCode
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.shareable import ReservedHeaderKey, Shareable, make_reply
from redflare_workers.protocol.shareable_codec import from_message, to_message

from .peer_sender import PeerSender, Replies, check_word, checked_targets, outgoing
from .wire import AUX, MESSAGE, SEND, TOPIC

#: Called as ``handler(topic=, request=, fl_ctx=)``; returns the reply.
AuxMessageHandler: TypeAlias = Callable[..., Shareable]
#: Logs why a message is refused; with an exception if its handler has raised one.
Complain: TypeAlias = Callable[[str, BaseException | None], None]


class ContextMaker(Protocol):
    """What messaging needs of an engine."""

    def new_context(self) -> FLContext: ...


class AuxRunner(FLComponent):
    """The aux messages of one engine, which makes the contexts in which handlers run."""

    def __init__(self, engine: ContextMaker, sender: PeerSender) -> None:
        self._engine = engine
        self._sender = sender
        self._guard = threading.Lock()
        self._handlers: dict[str, AuxMessageHandler] = {}

    # -- receiving -----------------------------------------------------------------------------------------------------

    def register_aux_message_handler(self, topic: str, message_handle_func: AuxMessageHandler) -> None:
        """Let a function handle the messages of a topic: ``func(topic=, request=, fl_ctx=)``, which returns the reply.

        Raises:
            TypeError: the topic is not a str, or the handler is not callable.
            ValueError: the topic is empty, the handler is None, or the topic has a handler already.
        """
        check_word(topic, "topic")
        if message_handle_func is None:
            raise ValueError(f"the handler of topic {topic!r} is missing")
        if not callable(message_handle_func):
            kind = type(message_handle_func).__name__
            raise TypeError(f"the handler of topic {topic!r} must be callable, but got {kind}")
        if why := why_not_plain(message_handle_func):
            raise TypeError(f"the handler of topic {topic!r} is {why}")
        with self._guard:
            if topic in self._handlers:
                raise ValueError(f"topic {topic!r} has a handler already")
            self._handlers[topic] = message_handle_func

    def dispatch(
        self, topic: str, request: Shareable, fl_ctx: FLContext, complain: Complain | None = None
    ) -> Shareable:
        """Run the handler of a message's topic, and return its reply; the sender's props become the peer context.

        The reply's return code is BAD_REQUEST_DATA, TOPIC_UNKNOWN, MISSING_PEER_CONTEXT, BAD_PEER_CONTEXT or
        HANDLER_EXCEPTION when that went wrong, and ERROR when the handler returned no Shareable. ``complain`` then
        logs why; None: the log of this component does.
        """
        complain = complain or partial(self._complain, fl_ctx)
        if not isinstance(request, Shareable):
            complain(f"message {topic!r} must be a Shareable, but is a {type(request).__name__}", None)
            return make_reply(ReturnCode.BAD_REQUEST_DATA)
        reply = self._handle(topic, request, fl_ctx, complain)
        if jar := request.get_cookie_jar():
            reply.set_cookie_jar(jar)
        return reply

    def on_request(self, request: Request) -> HandlerResult:
        """Handle a message that came to the cell."""
        topic, carried = request.meta.get(TOPIC), request.meta.get(MESSAGE)

        def complain(text: str, error: BaseException | None) -> None:
            request.note_fault("refused aux message", f"{text} (from {request.origin})", logging.ERROR, exc_info=error)

        with self._engine.new_context() as fl_ctx:
            if not isinstance(topic, str) or not isinstance(carried, dict):
                complain("an aux message must have a topic and a message", None)
                reply = make_reply(ReturnCode.BAD_REQUEST_DATA)
            else:
                message = self._read(carried, request, complain)
                props = message.get_peer_props() if isinstance(message, Shareable) else None
                if impostor := self._sender.impostor(request.origin, props):
                    complain(f"aux message {topic!r} is refused: {impostor}", None)
                    reply = make_reply(ReturnCode.BAD_PEER_CONTEXT)
                else:
                    reply = self.dispatch(topic, message, fl_ctx, complain)
        meta, data = to_message(reply)
        return ReturnCode.OK, {MESSAGE: meta}, data

    # -- sending -------------------------------------------------------------------------------------------------------

    def send_aux_request(
        self,
        targets: str | Sequence[str],
        topic: str,
        request: Shareable,
        timeout: float,
        fl_ctx: FLContext,
        optional: bool = False,
        secure: bool = False,
    ) -> dict[str, Shareable]:
        """Send a request to peers, and wait for their replies.

        Args:
            targets: names of peers.
            timeout: seconds to wait; 0: do not wait.
            optional: log failures at DEBUG only.
            secure: without effect; what protects messages is TLS between each process and Redis.

        Returns:
            the reply of each by name. When none came, its return code is TIMEOUT, TASK_ABORTED (the run was aborted),
            SERVICE_UNAVAILABLE or COMMUNICATION_ERROR (no peer has that name, or the message could not be sent), and
            the header ``__error__`` has the reason. Empty when the timeout is 0.

        Raises:
            TypeError: an argument is of the wrong type.
            ValueError: the topic is empty, the timeout < 0, or (EncodeError) the message holds a value that cannot be
                sent.
        """
        names = checked_targets(targets)
        self._check(topic, request, timeout)
        fqcns = self._sender.fqcns(names)
        message = outgoing(request, fl_ctx)
        message.set_header(ReservedHeaderKey.TOPIC, topic)
        unknown = {name: _no_such_peer(name) for name in names if name not in fqcns}
        if timeout == 0:
            self._log_failures(topic, unknown, fl_ctx, optional)
            self._sender.tell(AUX, SEND, fqcns, {TOPIC: topic}, message)
            return {}
        replies = Replies(names)
        for name, failure in unknown.items():
            replies.put(name, failure)
        asked = self._sender.ask(AUX, SEND, fqcns, {TOPIC: topic}, message, replies) if fqcns else None
        try:
            replies.wait(timeout, fl_ctx.get_run_abort_signal())
        finally:
            if asked is not None:
                asked.cancel()
        result = replies.read()
        self._log_failures(topic, result, fl_ctx, optional)
        return result

    # -- inside --------------------------------------------------------------------------------------------------------

    def _complain(self, fl_ctx: FLContext, text: str, error: BaseException | None) -> None:
        if error is None:
            self.log_error(fl_ctx, text)
        else:
            self.log_exception(fl_ctx, text)

    def _handle(self, topic: str, request: Shareable, fl_ctx: FLContext, complain: Complain) -> Shareable:
        handler = self._handlers.get(topic)
        if handler is None:
            complain(f"no handler is registered for aux messages of topic {topic!r}", None)
            return make_reply(ReturnCode.TOPIC_UNKNOWN)
        props = request.get_peer_props()
        if not props:
            complain(f"aux message {topic!r} has no props of its sender", None)
            return make_reply(ReturnCode.MISSING_PEER_CONTEXT)
        if not isinstance(props, dict):
            kind = type(props).__name__
            complain(f"the sender's props in aux message {topic!r} must be a dict, but are a {kind}", None)
            return make_reply(ReturnCode.BAD_PEER_CONTEXT)
        fl_ctx.set_peer_context(context_with(props))
        try:
            reply = handler(topic=topic, request=request, fl_ctx=fl_ctx)
        except (Exception, SystemExit) as error:
            complain(f"the handler of aux message {topic!r} failed", error)
            return make_reply(ReturnCode.HANDLER_EXCEPTION)
        if isinstance(reply, Shareable):
            return reply
        kind = type(reply).__name__
        complain(f"the handler of aux message {topic!r} must return a Shareable, but returned a {kind}", None)
        return make_reply(ReturnCode.ERROR)

    def _read(self, carried: dict[str, Any], request: Request, complain: Complain) -> Any:
        """Decode the Shareable of a message; None: it cannot be decoded."""
        try:
            return from_message(carried, request.data)
        except BlobMissing:
            # the cell asks the sender for it once more
            raise
        except RedflareError as error:
            complain(f"cannot decode an aux message: {error}", None)
            return None

    def _log_failures(self, topic: str, replies: dict[str, Shareable], fl_ctx: FLContext, optional: bool) -> None:
        for name, reply in replies.items():
            if (error := reply.get_header(ReservedHeaderKey.ERROR)) is not None:
                log = self.log_debug if optional else self.log_error
                log(fl_ctx, f"aux message {topic!r} to {name}: {reply.get_return_code()}: {error}")

    @staticmethod
    def _check(topic: object, request: object, timeout: object) -> None:
        check_word(topic, "topic")
        if not isinstance(request, Shareable):
            raise TypeError(f"request must be a Shareable, but got {type(request).__name__}")
        if isinstance(timeout, bool) or not isinstance(timeout, int | float):
            raise TypeError(f"timeout must be a number of seconds, but got {type(timeout).__name__}")
        if timeout < 0:
            raise ValueError(f"timeout must be >= 0 seconds, but got {timeout}")


def context_with(props: dict[str, Any]) -> FLContext:
    """Make the context of a peer from its public props."""
    context = FLContext()
    context.set_public_props(props)
    return context


def _no_such_peer(name: str) -> Shareable:
    text = f"no peer is named {name!r}"
    return make_reply(ReturnCode.COMMUNICATION_ERROR, {ReservedHeaderKey.ERROR: text})
