"""``DataSnapshot``: finds out whether a task's data was changed, without reading what its arrays hold."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import NoneType
from typing import Any, Final

import numpy as np

#: Values that cannot change, and are compared; of all others it counts whether they are the same objects.
_PLAIN: Final = (str, int, float, complex, bool, bytes, NoneType, np.generic)


class DataSnapshot:
    """The structure of a tree of data, its plain values, and which arrays and tensors are in it.

    Comparing costs the same whatever the size of the arrays: one counts as unchanged while it is the same object.
    ``read_only_arrays`` sees to it that none is changed in place. A tensor counts its changes itself.
    """

    def __init__(self, data: object) -> None:
        #: what is known by its id: held, so that no id is used again
        self._held: list[object] = []
        self._items = list(_items(data, self._held))

    def equals(self, other: DataSnapshot) -> bool:
        """Whether nothing has changed between the two."""
        return self._items == other._items

    def holds_any(self, arrays: Mapping[int, object]) -> bool:
        """Whether one of these arrays, which are given by their ids, was in it."""
        return any(id(value) in arrays for value in self._held)

    def __repr__(self) -> str:
        return f"<DataSnapshot of {len(self._items)} values>"


def _items(value: object, held: list[object]) -> Iterator[tuple[object, ...]]:
    kind = type(value)
    if isinstance(value, dict):
        yield kind, tuple(value)
        for each in value.values():
            yield from _items(each, held)
    elif isinstance(value, list | tuple):
        yield kind, len(value)
        for each in value:
            yield from _items(each, held)
    elif isinstance(value, _PLAIN):
        yield kind, value
    elif isinstance(value, bytearray):
        yield kind, bytes(value)
    else:
        held.append(value)
        yield kind, id(value), _version(value)


def _version(value: object) -> object:
    """Return how often a tensor was changed in place; None for all that does not count it."""
    try:
        return getattr(value, "_version", None)
    except RuntimeError:
        # of a tensor made in torch's inference mode
        return None


def own_copy(data: Any, put_in: Mapping[int, object]) -> Any:
    """Copy the dicts, lists and tuples of a tree, and of what they hold the arrays in ``put_in``, by their ids."""
    if isinstance(data, dict | list):
        other = copy.copy(data)
        for key, value in list(data.items() if isinstance(data, dict) else enumerate(data)):
            other[key] = own_copy(value, put_in)
        return other
    if type(data) is tuple:
        return tuple(own_copy(value, put_in) for value in data)
    return copy.copy(data) if id(data) in put_in else data


#: The views that stand in the place of arrays now, by their ids, with these arrays: callbacks of several tasks may run
#: at once, and the tasks have arrays in common.
_shown: dict[int, tuple[object, object]] = {}
_shown_lock: Final = threading.Lock()


@contextmanager
def read_only_arrays(data: object) -> Iterator[dict[int, object]]:
    """Put read-only views in the place of the arrays in a tree's dicts and lists, and the arrays back afterwards.

    To write to one is a ValueError then; to put another array in its place is not.

    Yields:
        the arrays that were put in meanwhile, by their ids; filled at the end.
    """
    arrays: dict[int, tuple[object, object]] = {}
    put_in: dict[int, object] = {}

    def show(array: Any) -> Any:
        view = array.view()
        view.flags.writeable = False
        _shown[id(view)] = arrays[id(view)] = view, _shown.get(id(array), (array, array))[1]
        return view

    def put_back(array: Any) -> Any:
        if id(array) not in _shown:
            put_in[id(array)] = array
        return arrays.get(id(array), (None, array))[1]

    try:
        with _shown_lock:
            _replace_arrays(data, show)
        yield put_in
    finally:
        with _shown_lock:
            _replace_arrays(data, put_back)
            for key in arrays:
                del _shown[key]


def _replace_arrays(tree: object, other: Callable[[Any], Any]) -> None:
    """Replace the arrays in the dicts and lists of a tree."""
    if isinstance(tree, dict | list):
        for key, value in list(tree.items() if isinstance(tree, dict) else enumerate(tree)):
            if isinstance(value, np.ndarray):
                tree[key] = other(value)
            else:
                _replace_arrays(value, other)
    elif isinstance(tree, tuple):
        for value in tree:
            _replace_arrays(value, other)
