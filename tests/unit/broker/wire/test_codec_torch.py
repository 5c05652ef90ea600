"""torch tensors travel as tensors, with nothing but torch; they arrive as arrays where torch is not."""

from __future__ import annotations

import sys
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
from redflare_broker.errors import DecodeError, EncodeError
from redflare_broker.wire import codec, tensors

torch: Any = pytest.importorskip("torch")


def round_trip(data: Any) -> Any:
    encoded = codec.encode({}, data)
    return codec.decode(encoded.meta, encoded.data, encoded.buffers)[1]


def bits(tensor: Any) -> bytes:
    return bytes(tensors.to_bytes(tensor))


def assert_same_tensor(actual: Any, expected: Any) -> None:
    assert type(actual) is torch.Tensor
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    assert bits(actual) == bits(expected)


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental:UserWarning")
@pytest.mark.parametrize("name", sorted(tensors.ITEM_SIZES))
def test_every_dtype_keeps_its_bits_and_has_the_expected_size(name: str) -> None:
    dtype = getattr(torch, name)
    assert dtype.itemsize == tensors.ITEM_SIZES[name]
    raw = torch.arange(6 * dtype.itemsize, dtype=torch.uint8) % 2
    for tensor in (raw.view(dtype).reshape(2, 3), raw.view(dtype)[1], torch.empty((0, 3), dtype=dtype)):
        assert_same_tensor(round_trip(tensor), tensor)


def test_a_state_dict_is_decoded_as_a_dict_of_tensors() -> None:
    model = torch.nn.Linear(3, 2)
    back = round_trip(model.state_dict())
    assert isinstance(model.state_dict(), OrderedDict)
    assert type(back) is dict
    assert_same_tensor(back["weight"], model.weight)
    assert_same_tensor(back["bias"], model.bias)
    assert not back["weight"].requires_grad
    torch.nn.Linear(3, 2).load_state_dict(back)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(6.0).reshape(2, 3).t(),
        torch.arange(10)[::3],
        torch.tensor([1 + 2j, 3 - 1j]).conj(),
        torch.tensor([1 + 2j]).conj().imag,
        torch.zeros(1).expand(3, 4),
        torch.tensor(1.5, requires_grad=True),
        torch.nn.Parameter(torch.ones(2, 2)),
    ],
    ids=["transposed", "strided", "conjugate", "negative", "expanded", "0-d with gradient", "parameter"],
)
def test_tensors_of_every_layout_in_memory_keep_their_values(tensor: Any) -> None:
    back = round_trip(tensor)
    assert type(back) is torch.Tensor
    assert back.is_contiguous()
    assert torch.equal(back, tensor.detach())


def test_a_contiguous_tensor_is_not_copied_when_it_is_encoded() -> None:
    tensor = torch.zeros(1000, dtype=torch.bfloat16)
    (buffer,) = codec.encode({}, {"w": tensor}).buffers
    tensor[0] = 1
    assert bytes(buffer[:2]) == b"\x80\x3f"
    assert buffer.nbytes == 2000


def test_a_planned_tensor_is_received_into_its_own_memory() -> None:
    encoded = codec.encode({}, [torch.zeros(3)])
    planned = codec.plan(encoded.meta, encoded.data, [12])
    planned.targets[0][:] = np.array([1, 2, 3], np.float32).tobytes()
    (tensor,) = planned.finish()[1]
    assert tensor.tolist() == [1, 2, 3]
    tensor += 1


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.eye(2).to_sparse(), "layout torch.sparse_coo is not sent: call to_dense"),
        (torch.empty(2, device="meta"), "the tensor's values cannot be read"),
        (torch.zeros(2, dtype=torch.bits8), "dtype bits8 is not sent"),
    ],
    ids=["sparse", "meta", "opaque"],
)
def test_a_tensor_that_cannot_be_sent_is_refused_with_its_path(tensor: Any, message: str) -> None:
    with pytest.raises(EncodeError, match=rf"^data\.w\[0\]: .*{message}"):
        codec.encode({}, {"w": [tensor]})


def test_a_tensor_is_an_array_where_torch_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = codec.encode({}, {"w": torch.arange(4.0).reshape(2, 2), "n": torch.tensor(3)})
    monkeypatch.setitem(sys.modules, "torch", None)
    _, data = codec.decode(encoded.meta, encoded.data, encoded.buffers)
    assert type(data["w"]) is np.ndarray
    assert data["w"].tolist() == [[0, 1], [2, 3]]
    assert data["n"] == 3


def test_a_dtype_of_torch_alone_is_refused_where_torch_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = codec.encode({}, torch.zeros(2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2))
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(DecodeError, match=r"^data: dtype 'float4_e2m1fn_x2' is not known on this machine"):
        codec.decode(encoded.meta, encoded.data, encoded.buffers)


def test_an_announced_tensor_that_does_not_fit_into_memory_is_a_decode_error() -> None:
    limits = codec.CodecLimits(max_bytes=1 << 62)
    with pytest.raises(DecodeError, match="message: cannot be held"):
        codec.plan(b"{}", b'{"$torch":[0,"int8",[1152921504606846976]]}', (1 << 60,), limits)
