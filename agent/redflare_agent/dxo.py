"""``DXO``: an object of a collection, as a trainer sees it; after NVFlare's class of this name.

Only tasks and results of kind COLLECTION have such objects: their data is a dict of them, to any depth. It is the
small half of the executors' ``redflare_workers.DXO``, which also goes into a Shareable and may hold an encoded payload.
"""

from __future__ import annotations

from typing import Any

from redflare_broker.constants import DataKind

__all__ = ["DXO", "DataKind"]


class DXO:
    """Data with its kind and meta.

    Args:
        data_kind: one of ``DataKind``, or a word of the application's own.
        data: a dict, or anything when the kind is APP_DEFINED; None becomes ``{}``.
        meta: a dict of further properties; None becomes ``{}``.

    Raises:
        ValueError: data or meta is of the wrong type.
    """

    __slots__ = ("data", "data_kind", "meta")

    def __init__(self, data_kind: str, data: Any, meta: dict[str, Any] | None = None) -> None:
        self.data_kind = data_kind
        self.data = {} if data is None else data
        self.meta = {} if meta is None else meta
        if data_kind != DataKind.APP_DEFINED and not isinstance(self.data, dict):
            raise ValueError(f"data of kind {data_kind!s} must be a dict, but is {type(self.data).__name__}")
        if not isinstance(self.meta, dict):
            raise ValueError(f"meta must be a dict, but is {type(self.meta).__name__}")

    def get_meta_prop(self, key: str, default: Any = None) -> Any:
        """One value of the meta, or ``default``."""
        return self.meta.get(key, default)

    def set_meta_prop(self, key: str, value: Any) -> None:
        """Set one value of the meta."""
        self.meta[key] = value

    def __repr__(self) -> str:
        content = sorted(map(str, self.data)) if isinstance(self.data, dict) else type(self.data).__name__
        return f"DXO(data_kind={self.data_kind!s}, data={content}, meta={self.meta})"
