"""Collections: the data of kind COLLECTION is a dict of objects that have kind, data and meta of their own.

Each side has a class for such an object (``DXO``); what travels is a dict of its three parts, under the keys that
NVFlare's ``DXO.to_dict`` uses, so both sides and ``redis-cli`` can read it. Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from redflare_broker.constants import DataKind

#: Keys of the parts.
KIND: Final = "kind"
DATA: Final = "data"
META: Final = "meta"


class _DXO(Protocol):
    data_kind: Any
    data: Any
    meta: Any


def to_plain(kind: object, data: Any, dxo: type[_DXO]) -> Any:
    """Return ``data`` without objects of class ``dxo``, to any depth; data of another kind as it is."""
    if kind != DataKind.COLLECTION or not isinstance(data, dict):
        return data
    return {name: _parts(item, dxo) if isinstance(item, dxo) else item for name, item in data.items()}


def _parts(item: _DXO, dxo: type[_DXO]) -> dict[str, Any]:
    return {KIND: item.data_kind, DATA: to_plain(item.data_kind, item.data, dxo), META: item.meta or {}}


def from_plain(kind: object, data: Any, make: Callable[[str, Any, dict[str, Any]], Any]) -> Any:
    """Reverse ``to_plain``: what are the parts of an object becomes what ``make(kind, data, meta)`` gives."""
    if kind != DataKind.COLLECTION or not isinstance(data, dict):
        return data
    return {
        name: make(item[KIND], from_plain(item[KIND], item[DATA], make), item[META]) if _is_parts(item) else item
        for name, item in data.items()
    }


def _is_parts(item: object) -> bool:
    return (
        isinstance(item, dict)
        and item.keys() == {KIND, DATA, META}
        and isinstance(item[KIND], str)
        and isinstance(item[META], dict)
        and (isinstance(item[DATA], dict) or item[KIND] == DataKind.APP_DEFINED)
    )
