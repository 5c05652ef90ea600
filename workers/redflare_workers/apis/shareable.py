"""``Shareable``: a dict with headers, exchanged between a workflow and an executor.

After NVFlare's ``Shareable``. The headers are inside the dict under ``__headers__``, so they are sent with it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any, Final

from .fl_constant import ReservedKey, ReturnCode

__all__ = ["ReservedHeaderKey", "ReturnCode", "Shareable", "make_copy", "make_reply"]


class ReservedHeaderKey:
    """Headers of the system, and ``HEADERS``, the key of the dict of all headers."""

    HEADERS: Final = "__headers__"

    AUDIT_EVENT_ID: Final = ReservedKey.AUDIT_EVENT_ID
    CONTENT_TYPE: Final = "__content_type__"
    COOKIE_JAR: Final = ReservedKey.COOKIE_JAR
    ERROR: Final = "__error__"
    MSG_ROOT_ID: Final = "__msg_root_id__"
    #: Time to live in seconds.
    MSG_ROOT_TTL: Final = "__msg_root_ttl__"
    PASS_THROUGH: Final = "__pass_through__"
    PEER_CTX: Final = ReservedKey.PEER_CTX
    PEER_PROPS: Final = "__peer_props__"
    RC: Final = ReservedKey.RC
    REPLY_IS_LATE: Final = "__reply_is_late__"
    TASK_ID: Final = ReservedKey.TASK_ID
    TASK_NAME: Final = ReservedKey.TASK_NAME
    TASK_OPERATOR: Final = "__task_operator__"
    TOPIC: Final = "__topic__"
    WORKFLOW: Final = ReservedKey.WORKFLOW


class Shareable(dict[str, Any]):
    """A dict of user data plus headers.

    Args:
        data: initial content. Its own headers, if it has any, are left out: a new Shareable starts with none.
    """

    def __init__(self, data: Mapping[str, Any] | None = None) -> None:
        super().__init__(data or {})
        self[ReservedHeaderKey.HEADERS] = {}

    def __repr__(self) -> str:
        keys = sorted(str(key) for key in self if key != ReservedHeaderKey.HEADERS)
        return f"Shareable(keys={keys}, headers={self._headers()})"

    def _headers(self) -> dict[str, Any]:
        headers = self.get(ReservedHeaderKey.HEADERS) or {}
        if not isinstance(headers, dict):
            raise ValueError(
                f"the headers of a Shareable must be a dict, but {ReservedHeaderKey.HEADERS!r} holds a "
                f"{type(headers).__name__}; use set_header() and leave that key alone"
            )
        return headers

    def set_header(self, key: str, value: Any) -> None:
        """Set one header."""
        headers = self._headers()
        headers[key] = value
        self[ReservedHeaderKey.HEADERS] = headers

    def get_header(self, key: str, default: Any = None) -> Any:
        """One header, or ``default``. ValueError: the value of ``__headers__`` is not a dict."""
        return self._headers().get(key, default)

    def get_return_code(self, default: Any = ReturnCode.OK) -> Any:
        """Return the return code; a Shareable without one counts as OK."""
        return self.get_header(ReservedHeaderKey.RC, default)

    def set_return_code(self, rc: str) -> None:
        """Set the return code, one of ``ReturnCode`` or a word of the application's own."""
        self.set_header(ReservedHeaderKey.RC, rc)

    def add_cookie(self, name: str, data: Any) -> None:
        """Put one value into the cookie jar, which the peer echoes in its reply."""
        jar = self.get_cookie_jar() or {}
        jar[name] = data
        self.set_cookie_jar(jar)

    def get_cookie_jar(self) -> Any:
        """Return the whole cookie jar, a dict, or None."""
        return self.get_header(ReservedHeaderKey.COOKIE_JAR)

    def set_cookie_jar(self, jar: Any) -> None:
        """Replace the cookie jar; a reply sets that of its request."""
        self.set_header(ReservedHeaderKey.COOKIE_JAR, jar)

    def get_cookie(self, name: str, default: Any = None) -> Any:
        """One cookie, or ``default``."""
        return (self.get_cookie_jar() or {}).get(name, default)

    def set_peer_props(self, props: dict[str, Any]) -> None:
        """Attach the sender's public props."""
        self.set_header(ReservedHeaderKey.PEER_PROPS, props)

    def get_peer_props(self) -> Any:
        """Return the sender's public props, or None."""
        return self.get_header(ReservedHeaderKey.PEER_PROPS)

    def get_peer_prop(self, key: str, default: Any = None) -> Any:
        """One of the sender's public props; ``default`` too when what was attached is not a dict."""
        props = self.get_peer_props()
        return props.get(key, default) if isinstance(props, dict) else default

    def set_peer_context(self, peer_ctx: Any) -> None:
        """Attach the sender's context."""
        self.set_header(ReservedHeaderKey.PEER_CTX, peer_ctx)

    def get_peer_context(self) -> Any:
        """Return the sender's context, or None."""
        return self.get_header(ReservedHeaderKey.PEER_CTX)


def make_reply(rc: str, headers: dict[str, Any] | None = None) -> Shareable:
    """Make a Shareable with a return code, further headers and no content."""
    reply = Shareable()
    reply.set_return_code(rc)
    for key, value in (headers or {}).items():
        reply.set_header(key, value)
    return reply


def make_copy(source: Shareable, exclude_headers: Iterable[str] | None = None) -> Shareable:
    """Make a copy that shares its content with ``source`` and has a deep copy of its headers.

    Args:
        source: the original; a model in it is not copied.
        exclude_headers: names of headers to leave out.
    """
    if not isinstance(source, Shareable):
        raise TypeError(f"source must be a Shareable, but got {type(source).__name__}")
    excluded = set(exclude_headers or ())
    result = copy.copy(source)
    headers = source._headers().items()
    result[ReservedHeaderKey.HEADERS] = {key: copy.deepcopy(value) for key, value in headers if key not in excluded}
    return result
