"""torch tensors as flat bytes, without needing torch.

torch is looked up among the modules that are loaded when something is sent, and imported only when a message that
holds a tensor arrives. Tensors are little-endian and viewed as bytes, so bfloat16 and float8 need nothing but torch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final

import numpy as np

from . import dtypes

#: Bytes per element of the dtypes that are sent; quantized ones and those narrower than a byte are not.
ITEM_SIZES: Final = {
    **dict.fromkeys(("bool", "int8", "uint8", "float4_e2m1fn_x2"), 1),
    **dict.fromkeys(("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"), 1),
    **dict.fromkeys(("int16", "uint16", "float16", "bfloat16"), 2),
    **dict.fromkeys(("int32", "uint32", "float32", "complex32"), 4),
    **dict.fromkeys(("int64", "uint64", "float64", "complex64"), 8),
    "complex128": 16,
}


def is_tensor(value: object) -> bool:
    """Whether ``value`` is a torch tensor; False, at no cost, in a process that never imported torch."""
    tensor = getattr(sys.modules.get("torch"), "Tensor", None)
    return tensor is not None and isinstance(value, tensor)


def name_of(tensor: Any) -> str:
    """Name of the dtype on the wire.

    Raises:
        TypeError: tensors of this dtype or layout are not sent; the text names the remedy.
    """
    name = str(tensor.dtype).removeprefix("torch.")
    if str(tensor.layout) != "torch.strided":
        raise TypeError(f"a tensor of layout {tensor.layout} is not sent: call to_dense() first")
    if name not in ITEM_SIZES:
        raise TypeError(f"a tensor of dtype {name} is not sent: convert it first, e.g. with float()")
    return name


def to_bytes(tensor: Any) -> memoryview:
    """Return the elements as flat bytes: the tensor's own memory when it is contiguous and on the CPU, else a copy.

    Raises:
        TypeError: the tensor has no memory to read (device "meta", a distributed or fake tensor).
    """
    if tensor.numel() == 0:
        return memoryview(b"")
    torch = sys.modules["torch"]
    try:
        plain = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
        # not reshape(): a tensor of one element counts as contiguous whatever its stride, and view() does not take that
        return memoryview(plain.as_strided((plain.numel(),), (1,)).view(torch.uint8).numpy())
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise TypeError(f"the tensor's values cannot be read: {error}") from error


def item_size(name: object) -> int:
    """Bytes per element of the dtype ``name``.

    Raises:
        LookupError: it is not one of ours.
    """
    size = ITEM_SIZES.get(name) if isinstance(name, str) else None
    if size is None:
        raise LookupError(f"tensor dtype {name!r:.80} is not known")
    return size


def check_representable(name: str) -> None:
    """Raise LookupError when neither this process's torch nor numpy can hold the dtype ``name``."""
    torch = _torch()
    if torch is None:
        dtypes.by_name(name)
    elif not hasattr(torch, name):
        raise LookupError(f"tensor dtype {name!r} needs a newer torch than {torch.__version__}")


def allocate(name: str, shape: Sequence[int]) -> tuple[Any, memoryview]:
    """Make a new tensor (a numpy array where torch is not installed), and return it with its memory to fill."""
    torch = _torch()
    if torch is None:
        array: Any = np.empty(tuple(shape), dtypes.by_name(name))
        return array, dtypes.flat(array)
    tensor = torch.empty(tuple(shape), dtype=getattr(torch, name))
    if tensor.numel() == 0:
        return tensor, memoryview(bytearray())
    return tensor, memoryview(tensor.reshape(-1).view(torch.uint8).numpy())


def _torch() -> Any:
    try:
        return import_module("torch")
    except ImportError:
        return None
