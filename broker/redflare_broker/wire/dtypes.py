"""numpy dtypes, the names they have on the wire, and the memory of an array as bytes.

A name is numpy's (``float32``), little-endian; ``>`` in front says big-endian. The long doubles differ between
machines of equal itemsize, so their name tells the layout and a machine with another one refuses it instead of reading
garbage. bfloat16, float8 and their kin are ml_dtypes's, which is imported when the first of them is met.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final

import numpy as np

DType = np.dtype[Any]
Array = np.ndarray[Any, DType]

#: numpy 1.x holds no more dimensions than this, and a peer may run it.
MAX_RANK: Final = 32

_NUMERIC: Final = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
)

#: Those of ml_dtypes; the ones narrower than a byte take one byte per value in memory.
_EXTENSION: Final = frozenset(
    (
        *("bfloat16", "complex32", "bcomplex32", "float8_e3m4", "float8_e4m3", "float8_e4m3b11fnuz", "float8_e4m3fn"),
        *("float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu", "float6_e2m3fn", "float6_e3m2fn"),
        *("float4_e2m1fn", "int1", "int2", "int4", "uint1", "uint2", "uint4"),
    )
)

_BY_NAME: Final[dict[str, DType]] = {}
_NAMES: Final[dict[DType, str]] = {}


def _register(name: str, dtype: DType) -> None:
    _BY_NAME[name] = dtype
    _NAMES[dtype] = name


def _register_with_orders(name: str, dtype: DType) -> None:
    _register(name, dtype.newbyteorder("<"))
    if dtype.itemsize > 1:
        _register(f">{name}", dtype.newbyteorder(">"))


for _name in _NUMERIC:
    _register_with_orders(_name, np.dtype(_name))
for _scalar in (np.longdouble, np.clongdouble):
    if np.dtype(_scalar) not in _NAMES:
        _register_with_orders(f"{np.dtype(_scalar).name}_m{np.finfo(_scalar).nmant}", np.dtype(_scalar))


def name_of(dtype: DType) -> str | None:
    """Name of ``dtype`` on the wire, or None when values of it are not sent (objects, strings, dates, structures)."""
    name = _NAMES.get(dtype)
    if name is None and dtype.type.__module__ == "ml_dtypes" and dtype.isnative:
        return dtype.name if _extension(dtype.name) == dtype else None
    return name


def by_name(name: object) -> DType:
    """Return the dtype called ``name`` on the wire.

    Raises:
        LookupError: it is not one of ours, or needs a package that is not here; the text says which.
    """
    if not isinstance(name, str):
        raise LookupError(f"dtype must be a name, but is {name!r:.80}")
    dtype = _BY_NAME.get(name)
    if dtype is None:
        dtype = _extension(name)
    if dtype is None:
        raise LookupError(f"dtype {name!r:.80} is not known on this machine")
    return dtype


def flat(array: Array) -> memoryview:
    """Return the memory of a C-contiguous array as flat bytes.

    The detour over uint8 is for dtypes that the buffer protocol has no letter for.
    """
    if array.size == 0:
        return memoryview(bytearray())
    return array.reshape(-1).view(np.uint8).data


def _extension(name: str) -> DType | None:
    if name not in _EXTENSION:
        return None
    try:
        scalar = getattr(import_module("ml_dtypes"), name, None)
    except ImportError:
        raise LookupError(f"dtype {name!r} needs ml_dtypes: pip install ml_dtypes") from None
    if scalar is None:
        raise LookupError(f"dtype {name!r} needs a newer ml_dtypes: pip install -U ml_dtypes")
    _register(name, np.dtype(scalar))
    return _BY_NAME[name]
