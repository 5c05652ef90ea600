"""A model as workflows see it: nested dicts and lists whose leaves are numbers, read and made in slices of float64.

A leaf is a numpy array, a torch tensor, or a Python or numpy number. torch is used only where a leaf is a tensor, and
nothing here holds more than a slice beside the leaf itself.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from redflare_broker.wire import tensors
from redflare_broker.wire.tree_path import TreeError

Model = dict[str, Any]
Path = tuple[str | int, ...]
Floats = NDArray[np.float64]

#: Elements that are worked on at once: 1 MiB of float64.
SLICE: Final = 1 << 17


def flatten(tree: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield the leaves of a tree, each with the keys that lead to it."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from flatten(value, (*path, key))
    elif isinstance(tree, (list, tuple)):
        for index, value in enumerate(tree):
            yield from flatten(value, (*path, index))
    else:
        yield path, tree


def rebuild(tree: Any, leaf: Callable[[Path, Any], Any], path: Path = ()) -> Any:
    """Return a tree of the same form, each leaf replaced by what ``leaf(path, value)`` returns."""
    if isinstance(tree, dict):
        return {key: rebuild(value, leaf, (*path, key)) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        items = [rebuild(value, leaf, (*path, index)) for index, value in enumerate(tree)]
        return items if isinstance(tree, list) else tuple(items)
    return leaf(path, tree)


def at(path: Path, text: str, root: str = "model") -> str:
    """Return a message that says where in a model something is wrong: ``model.layers[3].w: ...``."""
    error = TreeError(text)
    for key in reversed(path):
        error.at(key if isinstance(key, int) else str(key))
    return error.under(root)


def slices(size: int) -> Iterator[tuple[int, int]]:
    """Where the slices of a leaf of ``size`` elements begin and end."""
    for start in range(0, size, SLICE):
        yield start, min(start + SLICE, size)


class Leaf:
    """The numbers at one place of a model.

    Args:
        value: a real numpy array, a real torch tensor, or a number.

    Raises:
        TypeError: it is none of these; the text says what it is.
    """

    __slots__ = ("_flat", "_value", "integral", "shape", "size", "wide")

    def __init__(self, value: Any) -> None:
        self._value = value
        if tensors.is_tensor(value):
            self._flat: Any = value.detach().reshape(-1)
            kind = "c" if value.is_complex() else "f" if value.is_floating_point() else "i"
            itemsize = value.element_size()
        else:
            array = np.asarray(value) if isinstance(value, (np.ndarray, np.generic, int, float)) else None
            kind = "" if array is None else _kind(array.dtype)
            itemsize = 0 if array is None else array.itemsize
            # .flat copies slices of any layout, where reshape would copy all of it
            self._flat = array if array is None else array.reshape(-1) if array.flags.c_contiguous else array.flat
        if kind not in ("f", "i"):
            named = f" of dtype {value.dtype}" if hasattr(value, "dtype") else ""
            raise TypeError(f"a {type(value).__name__}{named} has no mean; a model holds real arrays and numbers")
        self.shape = tuple(np.shape(value)) if not tensors.is_tensor(value) else tuple(value.shape)
        self.size = int(np.prod(self.shape, dtype=np.int64))
        #: Whole numbers or truth values: a mean of them is rounded.
        self.integral = kind == "i"
        #: Elements that need more than one float64 to be added without a loss.
        self.wide = itemsize > 4

    def read(self, start: int, stop: int) -> Floats:
        """Return a copy of the elements from ``start`` to ``stop``, as float64."""
        piece = self._flat[start:stop]
        if tensors.is_tensor(piece):
            piece = piece.to("cpu", sys.modules["torch"].float64).numpy()
        return np.array(piece, np.float64)

    def has_nan(self) -> bool:
        """Whether an element is no number."""
        return not self.integral and any(np.isnan(self.read(*part)).any() for part in slices(self.size))

    def make_like(self, read: Callable[[int, int], Floats]) -> Any:
        """New numbers of this leaf's type, dtype and shape, with the elements that ``read(start, stop)`` returns."""
        if not self.shape and not hasattr(self._value, "reshape"):
            return type(self._value)(self._rounded(read(0, 1))[0])
        if tensors.is_tensor(self._value):
            torch = sys.modules["torch"]
            made = torch.empty(self.shape, dtype=self._value.dtype)
            flat = made.reshape(-1)
            for start, stop in slices(self.size):
                flat[start:stop] = torch.from_numpy(self._rounded(read(start, stop)))
            return made
        array = np.empty(self.shape, self._value.dtype)
        flat = array.reshape(-1)
        for start, stop in slices(self.size):
            flat[start:stop] = self._rounded(read(start, stop))
        return array if isinstance(self._value, np.ndarray) else array[()]

    def _rounded(self, values: Floats) -> Floats:
        return np.rint(values, out=values) if self.integral else values


def _kind(dtype: np.dtype[Any]) -> str:
    """``f`` for real numbers, ``i`` for whole ones and truth values; anything else has no mean."""
    if dtype.type.__module__ == "ml_dtypes":
        return "" if "complex" in dtype.name else "i" if "int" in dtype.name else "f"
    return "i" if dtype.kind in "biu" else dtype.kind
