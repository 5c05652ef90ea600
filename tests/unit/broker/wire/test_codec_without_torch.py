"""Tensors that arrive where torch is not installed."""

from __future__ import annotations

import sys

import ml_dtypes
import numpy as np
import pytest
from redflare_broker.errors import DecodeError
from redflare_broker.wire.codec import decode, encode


@pytest.fixture(autouse=True)
def _without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)


def test_a_tensor_arrives_as_a_writable_array() -> None:
    _, data = decode(b"{}", b'[{"$torch":[0,"float32",[2,1]]}]', [np.array([1, 2], "<f4").tobytes()])
    assert data[0].dtype == np.float32
    assert data[0].tolist() == [[1], [2]]
    data[0][0] = 5


def test_a_bfloat16_tensor_arrives_as_an_array_of_ml_dtypes() -> None:
    _, data = decode(b"{}", b'{"$torch":[0,"bfloat16",[]]}', [b"\x80\x3f"])
    assert data.dtype == np.dtype(ml_dtypes.bfloat16)
    assert data == 1


def test_the_error_of_a_bfloat16_tensor_without_ml_dtypes_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from redflare_broker.wire import dtypes

    monkeypatch.delitem(dtypes._BY_NAME, "bfloat16", raising=False)
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(DecodeError, match="pip install ml_dtypes"):
        decode(b"{}", b'{"$torch":[0,"bfloat16",[]]}', [b"\x80\x3f"])


def test_encoding_works_without_torch() -> None:
    assert encode({}, {"x": 1}).data == b'{"x":1}'
