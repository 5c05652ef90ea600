"""``PeerSender``: sends an engine's messages to its peers, by their names; ``Replies`` collects the replies."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from redflare_broker.cell.cell import Cell
from redflare_broker.cell.multicast import Multicast
from redflare_broker.cell.request import Reply, ReplyCode
from redflare_broker.errors import EncodeError, RedflareError
from redflare_broker.util.patience import Patience

from redflare_workers.apis.fl_constant import ReservedKey, ReturnCode
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.shareable import ReservedHeaderKey, Shareable, make_copy, make_reply
from redflare_workers.apis.signal import Signal
from redflare_workers.protocol.shareable_codec import from_message, to_message

from .wire import MESSAGE, TO

logger = logging.getLogger(__name__)

#: Return codes that a cell gives by itself, as those of a Shareable.
_CODES: Final = {
    ReplyCode.TIMEOUT: ReturnCode.TIMEOUT,
    ReplyCode.ABORTED: ReturnCode.TASK_ABORTED,
    ReplyCode.BAD_REQUEST_DATA: ReturnCode.BAD_REQUEST_DATA,
    ReplyCode.TOPIC_UNKNOWN: ReturnCode.SERVICE_UNAVAILABLE,
    ReplyCode.HANDLER_EXCEPTION: ReturnCode.HANDLER_EXCEPTION,
    ReturnCode.SERVICE_UNAVAILABLE: ReturnCode.SERVICE_UNAVAILABLE,
}


class Replies:
    """The replies to one message, by the peer's name; thread-safe.

    Args:
        changed: notified after each reply; one condition may serve several messages.
    """

    def __init__(self, names: Iterable[str], changed: threading.Condition | None = None) -> None:
        self.names = list(names)
        self.changed = changed or threading.Condition()
        self._replies: dict[str, Reply | Shareable] = {}

    def put(self, name: str, reply: Reply | Shareable) -> None:
        """Record a peer's reply; the first one counts."""
        with self.changed:
            self._replies.setdefault(name, reply)
            self.changed.notify_all()

    def replace(self, name: str, reply: Shareable) -> None:
        """Record a reply in place of what the peer has replied, or will."""
        with self.changed:
            replaced = self._replies.get(name)
            self._replies[name] = reply
            self.changed.notify_all()
        if isinstance(replaced, Reply):
            replaced.release()

    def missing(self) -> list[str]:
        """Return the peers that have not replied."""
        return [name for name in self.names if name not in self._replies]

    def wait(self, timeout: float, abort_signal: Signal | None) -> None:
        """Wait for all replies; those that do not come in time become TIMEOUT or, after an abort, TASK_ABORTED."""
        patience = Patience(timeout)
        with watching(abort_signal, self.changed), self.changed:
            while self.missing() and not is_triggered(abort_signal) and patience.left:
                with patience.wait(patience.left) as seconds:
                    self.changed.wait(seconds)
            rc, why = ReturnCode.TIMEOUT, f"no reply within {timeout:g} s"
            if is_triggered(abort_signal):
                rc, why = ReturnCode.TASK_ABORTED, "the run was aborted before it replied"
            for name in self.missing():
                self._replies[name] = make_reply(rc, {ReservedHeaderKey.ERROR: why})

    def read(self) -> dict[str, Shareable]:
        """Decode the replies to Shareables, in the order of the names."""
        return {name: _read(name, self._replies[name]) for name in self.names if name in self._replies}


@dataclass(slots=True, eq=False)
class PeerSender:
    """Sends the messages of one engine. Without a cell, no peer can be reached."""

    #: under which this engine's peers know it
    name: str
    #: returns the FQCN of a peer's cell by the peer's name; None: no peer has that name
    resolve: Callable[[str], str | None]
    cell: Cell | None = None

    def fqcns(self, names: Iterable[str]) -> dict[str, str]:
        """Return the FQCNs of the peers' cells by name, without names that no peer has."""
        found = ((name, self.resolve(name)) for name in dict.fromkeys(names))
        return {name: fqcn for name, fqcn in found if fqcn is not None}

    def impostor(self, origin: str, props: object) -> str:
        """Return why a message of the cell ``origin`` cannot be of the peer that its props name; "": it can."""
        name = props.get(ReservedKey.IDENTITY_NAME) if isinstance(props, dict) else None
        if name is None:
            return ""
        place = self.resolve(name) if isinstance(name, str) else None
        return "" if place == origin else f"it says that it is of {name!r:.200}, but came from cell {origin}"

    def ask(
        self,
        channel: str,
        topic: str,
        fqcns: dict[str, str],
        meta: dict[str, Any],
        message: Shareable,
        replies: Replies,
    ) -> Multicast | None:
        """Send a request to each peer; if it cannot be sent, fail all replies at once and return None.

        Raises:
            EncodeError: the message holds what cannot be sent.
        """
        targets = {name: (fqcn, meta) for name, fqcn in fqcns.items()}
        return self.ask_each(channel, topic, targets, *to_message(message), replies)

    def ask_each(
        self,
        channel: str,
        topic: str,
        targets: Mapping[str, tuple[str, dict[str, Any]]],
        carried: dict[str, Any],
        data: object,
        replies: Replies,
    ) -> Multicast | None:
        """Send a request to each peer, with a meta of its own; otherwise as ``ask``.

        Args:
            targets: FQCN of the peer's cell and meta, by the peer's name.
            carried: meta of the message, as ``to_message`` makes it; ``data`` is its data.
        """
        cell = self.cell
        if cell is None:
            _fail_all(targets, replies, f"{self.name} has no cell: the messenger is not open")
            return None
        each = {name: (fqcn, {**meta, TO: name, MESSAGE: carried}) for name, (fqcn, meta) in targets.items()}
        try:
            return cell.ask_many(channel, topic, each, data, on_reply=replies.put)
        except EncodeError:
            raise
        except RedflareError as error:
            _fail_all(targets, replies, str(error))
            return None

    def tell(
        self, channel: str, topic: str, fqcns: dict[str, str], meta: dict[str, Any], message: Shareable | None = None
    ) -> None:
        """Send an event to each peer, without a reply; log it if it cannot be sent because the cell was stopped.

        Raises:
            EncodeError: the message holds what cannot be sent.
        """
        cell = self.cell
        if cell is None:
            logger.warning("%s cannot send %s/%s: its messenger is not open", self.name, channel, topic)
            return
        carried, data = to_message(message) if message is not None else ({}, None)
        for name, fqcn in fqcns.items():
            try:
                cell.fire_and_forget(channel, topic, fqcn, {**meta, TO: name, MESSAGE: carried}, data)
            except EncodeError:
                raise
            except RedflareError as error:
                logger.warning("%s cannot send %s/%s to %s: %s", self.name, channel, topic, name, error)


def _fail_all(names: Iterable[str], replies: Replies, why: str) -> None:
    for name in names:
        replies.put(name, make_reply(ReturnCode.COMMUNICATION_ERROR, {ReservedHeaderKey.ERROR: why}))


def outgoing(message: Shareable, fl_ctx: FLContext) -> Shareable:
    """Copy a message, sharing its content, and add the sender's public props."""
    copied = make_copy(message, {ReservedHeaderKey.PEER_CTX, ReservedHeaderKey.PEER_PROPS})
    copied.set_peer_props(fl_ctx.get_all_public_props())
    return copied


def checked_targets(targets: str | Sequence[str]) -> list[str]:
    """Return the names of targets, each once.

    Raises:
        TypeError: they are not names.
    """
    names = [targets] if isinstance(targets, str) else list(dict.fromkeys(targets))
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"a target must be a name, a str, but got {type(name).__name__}")
    return names


def check_word(value: object, what: str) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a str, but got {type(value).__name__}")
    if not value:
        raise ValueError(f"{what} must not be empty")


def is_triggered(signal: Signal | None) -> bool:
    return signal is not None and bool(signal.triggered)


@contextmanager
def watching(signal: Signal | None, changed: threading.Condition) -> Iterator[None]:
    """Notify a condition when an abort signal is triggered, during the context."""

    def wake() -> None:
        with changed:
            changed.notify_all()

    if not isinstance(signal, Signal):
        yield
        return
    with signal.add_callback(wake):
        yield


def _read(name: str, reply: Reply | Shareable) -> Shareable:
    if isinstance(reply, Shareable):
        return reply
    if not reply.ok:
        reply.release()
        rc = _CODES.get(reply.rc, ReturnCode.COMMUNICATION_ERROR)
        return make_reply(rc, {ReservedHeaderKey.ERROR: reply.error})
    try:
        carried = reply.meta.get(MESSAGE)
        return from_message(carried if isinstance(carried, dict) else {}, reply.data)
    except RedflareError as error:
        logger.error("cannot decode the reply of %s: %s", name, error)
        return make_reply(ReturnCode.ERROR, {ReservedHeaderKey.ERROR: str(error)})
