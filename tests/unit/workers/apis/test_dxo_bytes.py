"""DXOs as bytes and in files, and collections of DXOs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from redflare_workers.apis import DXO, DataKind, from_bytes, from_file, get_leaf_dxos


def collection() -> DXO:
    inner = DXO(DataKind.COLLECTION, {"metrics": DXO(DataKind.METRICS, {"loss": 0.5})})
    return DXO(DataKind.COLLECTION, {"model": DXO(DataKind.WEIGHTS, {"w": np.arange(3)}, {"k": 1}), "inner": inner})


def test_a_dxo_is_read_back_from_bytes_and_files(tmp_path: Path) -> None:
    dxo = DXO(DataKind.WEIGHTS, {"w": np.arange(6.0).reshape(2, 3), "n": 7}, {"current_round": 2})
    dxo.to_file(tmp_path / "model")
    for again in (from_bytes(dxo.to_bytes()), from_file(str(tmp_path / "model"))):
        assert (again.data_kind, again.meta, again.data["n"]) == ("WEIGHTS", {"current_round": 2}, 7)
        np.testing.assert_array_equal(again.data["w"], dxo.data["w"])
        again.data["w"][0, 0] = 5


def test_a_collection_is_read_back_with_its_dxos() -> None:
    leaves, errors = get_leaf_dxos(from_bytes(collection().to_bytes()), "all")
    assert errors == []
    assert {name: str(dxo.data_kind) for name, dxo in leaves.items()} == {
        "all.model": "WEIGHTS",
        "all.inner.metrics": "METRICS",
    }
    np.testing.assert_array_equal(leaves["all.model"].data["w"], np.arange(3))
    assert leaves["all.model"].meta == {"k": 1}


def test_a_dxo_that_is_no_collection_is_its_own_leaf() -> None:
    dxo = DXO(DataKind.METRICS, {"loss": 1})
    assert get_leaf_dxos(dxo, "me") == ({"me": dxo}, [])


def test_a_collection_with_anything_but_dxos_is_an_error() -> None:
    leaves, errors = get_leaf_dxos(DXO(DataKind.COLLECTION, {"a": 5, "b": DXO(DataKind.METRICS, {})}), "c")
    assert list(leaves) == ["c.b"]
    assert errors == ["'c.a' must be a DXO, but is a int"]


GOOD = DXO(DataKind.WEIGHTS, {"w": np.arange(3)}).to_bytes()


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "were not written by to_bytes"),
        (b"\x80\x04K\x05.", "were not written by to_bytes"),
        (b'{"format":"redflare-tree-1","sizes":[-1]}\n', "were not written by to_bytes"),
        (b'{"format":"redflare-tree-1","sizes":[2.5]}\nab', "were not written by to_bytes"),
        (b'{"format":"other","sizes":[2]}\n{}', "were not written by to_bytes"),
        (GOOD[:-1], "are truncated"),
        (GOOD + b"x", "are truncated"),
        (b'{"format":"redflare-tree-1","sizes":[1]}\n5', "must be a dict"),
    ],
)
def test_bytes_that_hold_no_dxo_are_refused(data: bytes, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        from_bytes(data)


def test_data_that_cannot_be_encoded_is_not_written() -> None:
    with pytest.raises(ValueError, match="object"):
        DXO(DataKind.WEIGHTS, {"w": object()}).to_bytes()
