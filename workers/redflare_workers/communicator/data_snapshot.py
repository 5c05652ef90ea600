"""``DataSnapshot``: finds out whether a task's data was changed, without reading what its arrays hold."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
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
        self._held: list[object] = []
        self._items = list(_items(data, self._held))

    def fits(self, data: object) -> bool:
        """Whether the data is as it was."""
        # what it holds keeps its ids from being used again
        return self._items == list(_items(data, []))

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


def copy_of_structure(data: Any) -> Any:
    """Copy the dicts, lists and tuples of a tree, and nothing that they hold."""
    if isinstance(data, dict | list):
        other = copy.copy(data)
        for key, value in list(data.items() if isinstance(data, dict) else enumerate(data)):
            other[key] = copy_of_structure(value)
        return other
    return type(data)(map(copy_of_structure, data)) if type(data) is tuple else data


#: The views that stand in the place of arrays now, by their ids, with these arrays: callbacks of several tasks may run
#: at once, and the tasks have arrays in common.
_shown: dict[int, tuple[object, object]] = {}
_shown_lock: Final = threading.Lock()


@contextmanager
def read_only_arrays(data: object) -> Iterator[None]:
    """Put read-only views in the place of the arrays in a tree's dicts and lists, and the arrays back afterwards.

    To write to one is a ValueError then; to put another array in its place is not.
    """
    arrays: dict[int, tuple[object, object]] = {}

    def show(array: Any) -> Any:
        view = array.view()
        view.flags.writeable = False
        _shown[id(view)] = arrays[id(view)] = view, _shown.get(id(array), (array, array))[1]
        return view

    try:
        with _shown_lock:
            _replace_arrays(data, show)
        yield
    finally:
        with _shown_lock:
            _replace_arrays(data, lambda array: arrays.get(id(array), (None, array))[1])
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
