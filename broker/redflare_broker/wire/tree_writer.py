"""From a tree of user data to plain JSON values with marks, and the flat buffers that the marks refer to."""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite
from typing import Any, Final

import numpy as np

from . import dtypes, tensors
from .limits import CodecLimits
from .tree_path import TreeError

_ACCEPTED: Final = (
    "accepted are dict (with str keys), list, tuple, str, int, float, bool, None, bytes, "
    "numpy arrays and scalars, torch tensors"
)
_LEAST_INT: Final = -(1 << 63)
_GREATEST_INT: Final = (1 << 64) - 1


class TreeWriter:
    """Turns trees into JSON values; one writer serves the trees of one message, whose buffers share one numbering."""

    __slots__ = ("_items", "_limits", "buffers", "nbytes")

    def __init__(self, limits: CodecLimits) -> None:
        self._limits = limits
        self._items = 2  # the two roots
        self.buffers: list[memoryview] = []
        self.nbytes = 0

    def value(self, value: Any, depth: int = 0) -> object:  # noqa: PLR0911 - one line per type, the commonest first
        """Return the JSON value that replaces ``value``.

        Raises:
            TreeError: something in it cannot be sent.
        """
        kind = type(value)
        if kind is str:
            return value if value.isascii() else _text(value)
        if kind is bool or value is None:
            return value
        if kind is int:
            return _integer(value)
        if kind is float:
            return value if isfinite(value) else {"$float": repr(value)}
        if kind is dict:
            return self._dict(value, depth + 1)
        if kind is list:
            return self._list(value, depth + 1)
        if kind is tuple:
            return {"$tuple": self._list(value, depth + 1)}
        if kind is np.ndarray:
            return self._array(value)
        return self._other(value, depth)

    def _dict(self, value: dict[Any, Any], depth: int) -> dict[str, object]:
        self._enter(len(value), depth)
        plain: dict[str, object] = {}
        for key, item in value.items():
            # the usual key and the usual value, without a call
            name = key if type(key) is str and key.isascii() and key[:1] != "$" else _key(key)
            if type(item) is str and item.isascii():
                plain[name] = item
                continue
            try:
                plain[name] = self.value(item, depth)
            except TreeError as error:
                raise error.at(name) from error.__cause__
        if len(plain) != len(value):
            raise TreeError("two keys are the same text")
        return plain

    def _list(self, value: list[Any] | tuple[Any, ...], depth: int) -> list[object]:
        self._enter(len(value), depth)
        kinds = set(map(type, value))
        if kinds == {float} and all(map(isfinite, value)):
            return list(value)
        plain: list[object] = []
        try:
            for item in value:
                plain.append(self.value(item, depth))
        except TreeError as error:
            raise error.at(len(plain)) from error.__cause__
        return plain

    def _enter(self, items: int, depth: int) -> None:
        if depth > self._limits.max_depth:
            raise TreeError(f"nested deeper than {self._limits.max_depth} levels, or a cycle")
        self._items += items
        if self._items > self._limits.max_items:
            raise TreeError(f"more than {self._limits.max_items} values; put numbers into numpy arrays", too_large=True)

    def _other(self, value: Any, depth: int) -> object:  # noqa: PLR0911 - one line per family of types
        if isinstance(value, np.generic) and not isinstance(value, str | bytes):
            return _scalar(value)
        if isinstance(value, bytes | bytearray | memoryview):
            return self._bytes(value)
        if isinstance(value, np.memmap):
            return self._array(value)
        if isinstance(value, np.ndarray):
            raise TreeError(f"a {type(value).__name__} would come back as a plain array: pass numpy.asarray() of it")
        if tensors.is_tensor(value):
            return self._tensor(value)
        if isinstance(value, str):
            return self.value(str.__str__(value))
        if isinstance(value, int):
            return self.value(int.__int__(value))
        if isinstance(value, float):
            return self.value(float.__float__(value))
        if isinstance(value, dict):
            return self._dict(value, depth + 1)
        if isinstance(value, list):
            return self._list(value, depth + 1)
        if isinstance(value, tuple):
            return {"$tuple": self._list(value, depth + 1)}
        raise TreeError(
            f"a value of type {type(value).__module__}.{type(value).__qualname__} cannot be sent; {_ACCEPTED}"
        )

    def _array(self, array: dtypes.Array) -> dict[str, object]:
        name = dtypes.name_of(array.dtype)
        if name is None:
            raise TreeError(f"an array of dtype {array.dtype} cannot be sent; accepted are numbers and bool")
        index = self._reserve(array.nbytes, array.shape)
        if not array.flags.c_contiguous:
            array = np.ascontiguousarray(array)
        self.buffers[index] = dtypes.flat(array)
        return {"$nd": [index, name, array.shape]}

    def _tensor(self, tensor: Any) -> dict[str, object]:
        try:
            name = tensors.name_of(tensor)
            shape = tuple(map(int, tensor.shape))
            index = self._reserve(tensor.numel() * tensors.item_size(name), shape)
            self.buffers[index] = tensors.to_bytes(tensor)
        except TypeError as error:
            raise TreeError(str(error)) from error
        return {"$torch": [index, name, shape]}

    def _bytes(self, value: bytes | bytearray | memoryview) -> dict[str, object]:
        try:
            view = memoryview(value)
            if "O" in view.format:
                raise TreeError("a memoryview of Python objects cannot be sent")
            index = self._reserve(view.nbytes, ())
            self.buffers[index] = _flat_view(view)
        except ValueError as error:  # a released memoryview
            raise TreeError(f"the memory cannot be read: {error}") from error
        return {"$bytes": [index, view.nbytes]}

    def _reserve(self, nbytes: int, shape: Iterable[int]) -> int:
        """Number a new buffer; refuse it before anything is copied when the message would be too large."""
        rank = len(tuple(shape))
        if rank > dtypes.MAX_RANK:
            raise TreeError(f"{rank} dimensions are too many: at most {dtypes.MAX_RANK} are sent")
        self.nbytes += nbytes
        if self.nbytes > self._limits.max_bytes:
            raise TreeError(
                f"with these {nbytes} bytes the message has {self.nbytes}, over max_bytes = {self._limits.max_bytes}",
                too_large=True,
            )
        self.buffers.append(memoryview(b""))
        return len(self.buffers) - 1


def _flat_view(view: memoryview) -> memoryview:
    if view.nbytes == 0:
        return memoryview(b"")
    if not view.c_contiguous:
        return memoryview(view.tobytes())
    try:
        return view.cast("B")
    except TypeError:  # a format that cast() does not know, such as '>f'
        return memoryview(view.tobytes())


def _key(key: object) -> str:
    if isinstance(key, str):
        text = _text(str.__str__(key))
        return f"${text}" if text.startswith("$") else text
    hint = f"use str({key!r})" if isinstance(key, int | float) else "use str keys"
    raise TreeError(f"a dict key of type {type(key).__name__} ({key!r:.80}) cannot be sent: {hint}")


def _text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TreeError(f"a str with a lone surrogate at {error.start} ({text[:40]!a}) is not Unicode text") from None
    return text


def _integer(value: int) -> object:
    if _LEAST_INT <= value <= _GREATEST_INT:
        return value
    try:
        return {"$int": str(value)}
    except ValueError as error:  # Python refuses to print thousands of digits
        raise TreeError(f"an int of {value.bit_length()} bits cannot be sent: {error}") from None


def _scalar(value: np.generic) -> dict[str, object]:
    """Return a number that JSON can show as it is; NaN, complex and long double as the hex of their bytes."""
    name = dtypes.name_of(value.dtype)
    if name is None:
        raise TreeError(f"a numpy scalar of dtype {value.dtype} cannot be sent; accepted are numbers and bool")
    item = value.item()
    if type(item) in (bool, int) or (type(item) is float and isfinite(item)):
        return {"$np": [name, item]}
    return {"$np": [name, value.tobytes().hex()]}
