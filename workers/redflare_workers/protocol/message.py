"""``Message``: a dataclass that is the meta of a request, an event or a reply between two processes.

Each field is one key of the meta, and the annotation is the check: a field that is missing, empty or of another type is
refused with the names of message and field, and the value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from functools import cache, partial
from types import NoneType, UnionType
from typing import Any, ClassVar, Final, Self, TypeVar, get_args, get_origin, get_type_hints

from redflare_broker.cell.cell import Cell
from redflare_broker.cell.request import HandlerResult, ReplyCode, Request
from redflare_broker.errors import DecodeError


class Fields:
    """Fields of a meta; the base of replies. Subclasses are frozen dataclasses."""

    __slots__ = ()

    def to_meta(self) -> dict[str, Any]:
        """Return the fields as the meta of a message."""
        return {name: getattr(self, name) for name in _hints(type(self))}

    @classmethod
    def from_meta(cls, meta: Mapping[str, Any]) -> Self:
        """Check and take over the fields of a meta; keys that are unknown, of a later version, are ignored.

        Raises:
            DecodeError: a field is missing or of another type, or a text that must be given is empty.
        """
        required = {each.name for each in fields(cls) if each.default is each.default_factory is MISSING}  # type: ignore[arg-type]
        title = f"message {cls.CHANNEL}/{cls.TOPIC}" if issubclass(cls, Message) else f"reply {cls.__name__}"
        for name, hint in _hints(cls).items():
            if name in meta:
                value = meta[name]
                if not _fits(value, hint):
                    expected = hint.__name__ if isinstance(hint, type) else hint
                    raise DecodeError(f"{title}: {name} must be of type {expected}, but is {value!r:.200}")
                if value == "" and name in required:
                    raise DecodeError(f"{title}: {name} must not be empty")
            elif name in required:
                raise DecodeError(f"{title}: {name} is missing")
        return cls(**{name: meta[name] for name in _hints(cls) if name in meta})


class Message(Fields):
    """A request or an event; a subclass names the channel and the topic on which it travels."""

    __slots__ = ()

    CHANNEL: ClassVar[str]
    TOPIC: ClassVar[str]

    def __init_subclass__(cls, channel: str = "", topic: str = "") -> None:
        # a dataclass with slots is a second class, made without these words; it has them from the first
        cls.CHANNEL = channel or getattr(cls, "CHANNEL", "")
        if topic:
            cls.TOPIC = topic


M = TypeVar("M", bound=Message)

#: rc: only another cell may send this message. Until a sender proves who it is, its FQCN in the message counts.
WRONG_SENDER: Final = "WRONG_SENDER"


def register(
    cell: Cell,
    message: type[M],
    handler: Callable[[M, Request], HandlerResult],
    *,
    sender: Callable[[M], str] | None,
) -> None:
    """Let a handler answer a message that comes to a cell; one with a bad field is answered BAD_REQUEST_DATA.

    Args:
        sender: returns the FQCN of the only cell that may send such a message; one of another is answered WRONG_SENDER.
            None: the handler checks that.

    Raises:
        ValueError: the cell has a handler for this message already.
    """
    cell.register_request_cb(message.CHANNEL, message.TOPIC, partial(_decode_and_handle, message, handler, sender))


def _decode_and_handle(
    message: type[M],
    handler: Callable[[M, Request], HandlerResult],
    sender: Callable[[M], str] | None,
    request: Request,
) -> HandlerResult:
    try:
        decoded = message.from_meta(request.meta)
    except DecodeError as error:
        return refuse(request, error)
    if sender is not None and request.origin != (only := sender(decoded)):
        return refuse_sender(request, only)
    return handler(decoded, request)


def refuse_sender(request: Request, only: str) -> HandlerResult:
    """Count a request that only another cell may send, and return the reply that says so."""
    text = f"{request.channel}/{request.topic} may be sent by {only:.200} only, but came from {request.origin}"
    request.note_fault("sent in the name of another", text)
    return WRONG_SENDER, {"error": text}, None


def refuse(request: Request, error: Exception) -> HandlerResult:
    """Log that a request makes no sense, and return the reply that says so."""
    request.note_fault("refused request", f"request from {request.origin} refused: {error}")
    return ReplyCode.BAD_REQUEST_DATA, {"error": str(error)}, None


def _hints(cls: Any) -> dict[str, Any]:
    """Return the type of each field, by name."""
    # a cached function takes no type[Self], says mypy
    return _resolved(cls)


@cache
def _resolved(cls: Any) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {each.name: hints[each.name] for each in fields(cls)}


def _fits(value: object, hint: Any) -> bool:
    """Whether a value that was decoded from JSON is of an annotated type."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin is UnionType:
        return any(_fits(value, each) for each in args)
    if origin is list:
        return isinstance(value, list) and all(_fits(each, args[0]) for each in value)
    if origin is Mapping:
        return isinstance(value, dict) and all(_fits(each, args[1]) for each in value.values())
    # to Python, True is an int
    if isinstance(value, bool) or value is None:
        return hint in (bool, NoneType) and isinstance(value, hint)
    return isinstance(value, int | float if hint is float else hint)
