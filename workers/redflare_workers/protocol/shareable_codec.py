"""Converts a ``Shareable`` into a message and back: meta without arrays, and data that may stay encoded.

The meta of a message is read at each station; its data, the model, only where it is processed. So the data of
a DXO is the message's data, and all around it is its meta. A Shareable without a DXO, or with arrays outside of the
DXO's data, is data as a whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from redflare_broker.errors import DecodeError
from redflare_broker.payload.encoded_payload import EncodedPayload
from redflare_broker.transport.server import Server
from redflare_broker.wire.collection import from_plain, to_plain
from redflare_broker.wire.limits import CodecLimits

from redflare_workers.apis.dxo import CONTENT, CONTENT_TYPE, DXO, from_dict
from redflare_workers.apis.shareable import ReservedHeaderKey, Shareable

_HEADERS: Final = "headers"
_KIND: Final = "kind"
_DXO_META: Final = "dxo_meta"
_OTHERS: Final = "others"
#: Key of the data of a Shareable that is data as a whole, while it is encoded.
_WHOLE: Final = "__sealed__"
_PLAIN: Final = frozenset({str, int, float, bool, type(None)})


def to_message(shareable: Shareable) -> tuple[dict[str, Any], object]:
    """Return meta and data of the message for a Shareable; the data is shared with it, not copied.

    Raises:
        TypeError: it is not a Shareable.
    """
    if not isinstance(shareable, Shareable):
        raise TypeError(f"only a Shareable can be sent, but got {type(shareable).__name__}")
    headers = dict(shareable.get(ReservedHeaderKey.HEADERS) or {})
    # the context of a peer is an object of this process
    headers.pop(ReservedHeaderKey.PEER_CTX, None)
    others = {key: value for key, value in shareable.items() if key != ReservedHeaderKey.HEADERS}
    if isinstance(whole := others.get(_WHOLE), EncodedPayload):
        return {_HEADERS: headers}, whole
    content = others.get(CONTENT) if headers.get(ReservedHeaderKey.CONTENT_TYPE) == CONTENT_TYPE else None
    if (dxo := _dxo(content)) is not None:
        rest = {key: value for key, value in others.items() if key != CONTENT}
        meta = {_HEADERS: headers, _KIND: str(dxo.data_kind), _DXO_META: dxo.meta, _OTHERS: rest}
        if _is_plain(meta):
            return meta, to_plain(dxo.data_kind, dxo.data, DXO)
    if _is_plain(headers):
        return {_HEADERS: headers}, others
    return {}, {**others, ReservedHeaderKey.HEADERS: headers}


def from_message(meta: object, data: object) -> Shareable:
    """Return the Shareable that a message carries; its data may be an ``EncodedPayload``, see ``decoded``.

    Raises:
        DecodeError: the message carries no Shareable.
    """
    shareable = Shareable()
    if not isinstance(meta, dict):
        raise DecodeError(f"the message of a Shareable must be an object, but is {meta!r:.200}")
    headers = meta.get(_HEADERS, {})
    if not isinstance(headers, dict):
        raise DecodeError(f"headers must be an object, but are {headers!r:.200}")
    if (kind := meta.get(_KIND)) is not None:
        others, dxo_meta = meta.get(_OTHERS, {}), meta.get(_DXO_META, {})
        if not isinstance(others, dict) or not isinstance(dxo_meta, dict) or not isinstance(kind, str):
            raise DecodeError(f"kind, {_DXO_META} and {_OTHERS} are not those of a DXO: {kind!r:.200}")
        try:
            dxo = DXO(kind, from_plain(kind, data, DXO), dxo_meta)
        except ValueError as error:
            raise DecodeError(str(error)) from error
        shareable.update(others)
        dxo.update_shareable(shareable)
    elif isinstance(data, EncodedPayload):
        shareable[_WHOLE] = data
    elif isinstance(data, dict):
        shareable.update(data)
    else:
        raise DecodeError(f"a Shareable must be an object, but is a {type(data).__name__}")
    if not isinstance(shareable.get(ReservedHeaderKey.HEADERS), dict):
        raise DecodeError("the headers of a Shareable must be an object")
    shareable[ReservedHeaderKey.HEADERS].update(headers)
    return shareable


def encoded_data(shareable: Shareable) -> EncodedPayload | None:
    """Return the data of a Shareable if it is still encoded, else None."""
    content = shareable.get(CONTENT)
    data = content.get("data") if isinstance(content, dict) else shareable.get(_WHOLE)
    return data if isinstance(data, EncodedPayload) else None


def is_encoded_whole(shareable: Shareable) -> bool:
    """Whether all of a Shareable but its headers is still encoded, so that not even its DXO shows."""
    return _WHOLE in shareable


def decoded(
    shareable: Shareable, server: Server, limits: CodecLimits, *, stop: Callable[[], bool] | None = None
) -> Shareable:
    """Return the Shareable with its data decoded; itself if nothing of it is encoded.

    Raises:
        DecodeError: the data is corrupt.
        BlobMissing: its chunks are gone.
        Unavailable: Redis is away, and ``stop`` ended the attempts.
    """
    payload = encoded_data(shareable)
    if payload is None:
        return shareable
    meta, _ = to_message(shareable)
    return from_message(meta, payload.decode(server, limits, stop=stop))


def _dxo(content: object) -> DXO | None:
    """Return the DXO in a Shareable; None if it is not a valid one, which its reader will report."""
    try:
        return from_dict(content) if isinstance(content, dict) else None
    except ValueError:
        return None


def _is_plain(value: object) -> bool:
    """Whether a tree holds no arrays."""
    kind = type(value)
    if kind in _PLAIN:
        return True
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return isinstance(value, str | int | float | np.generic)
