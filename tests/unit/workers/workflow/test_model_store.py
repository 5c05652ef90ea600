"""Models in files: read back unchanged, readable by numpy, and never half written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from redflare_workers.workflow.model_store import ModelStore, initial, load_model, save_model


def test_a_model_is_read_back_unchanged(tmp_path: Path) -> None:
    model = {
        "layers": [{"w": np.arange(6, dtype=np.float32).reshape(2, 3)}, {"w": np.zeros((0, 2), np.float64)}],
        "conv1.weight": np.array([1, 2], ">i4"),
        "shape": (2, 3),
        "$odd": {"$array": 1, "$tuple": [np.float32(1.5)]},
        "count": np.array(7, np.int64),
        "rate": 0.5,
        "name": "digits",
        "none": None,
        "flag": True,
    }
    save_model(tmp_path / "m.npz", model, {"round": 3})
    loaded, notes = load_model(tmp_path / "m.npz")
    assert notes == {"round": 3}
    assert list(loaded) == list(model)
    assert loaded["shape"] == (2, 3)
    assert (loaded["rate"], loaded["name"], loaded["none"], loaded["flag"]) == (0.5, "digits", None, True)
    assert loaded["$odd"]["$array"] == 1
    assert type(loaded["$odd"]["$tuple"][0]) is np.float32
    for actual, expected in [
        (loaded["layers"][0]["w"], model["layers"][0]["w"]),  # type: ignore[index]
        (loaded["layers"][1]["w"], model["layers"][1]["w"]),  # type: ignore[index]
        (loaded["conv1.weight"], model["conv1.weight"]),
        (loaded["count"], model["count"]),
    ]:
        assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
        np.testing.assert_array_equal(actual, expected)


def test_numpy_reads_the_file_without_us(tmp_path: Path) -> None:
    save_model(tmp_path / "m.npz", {"w": np.arange(3.0), "deep": {"b": np.ones(2)}, "file": np.zeros(1)})
    with np.load(tmp_path / "m.npz") as file:
        assert file["w"].tolist() == [0, 1, 2]
        assert file["deep/b"].tolist() == [1, 1]
        assert file["file"].tolist() == [0]


def test_names_that_would_meet_in_the_file_are_kept_apart(tmp_path: Path) -> None:
    save_model(tmp_path / "m.npz", {"a/b": np.zeros(1), "a": {"b": np.ones(1)}})
    loaded, _ = load_model(tmp_path / "m.npz")
    assert (loaded["a/b"][0], loaded["a"]["b"][0]) == (0, 1)


def test_extension_dtypes_keep_their_bits(tmp_path: Path) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    array = np.arange(6).reshape(2, 3).astype(ml_dtypes.bfloat16)
    save_model(tmp_path / "m.npz", {"w": array})
    loaded = load_model(tmp_path / "m.npz")[0]["w"]
    assert (loaded.dtype, loaded.shape, loaded.tobytes()) == (array.dtype, array.shape, array.tobytes())


def test_tensors_are_read_back_as_tensors(tmp_path: Path) -> None:
    torch: Any = pytest.importorskip("torch")
    model = {"w": torch.ones(2, 3), "h": torch.ones(2, dtype=torch.bfloat16), "empty": torch.empty(0, 3)}
    save_model(tmp_path / "m.npz", model)
    loaded, _ = load_model(tmp_path / "m.npz")
    for name, tensor in model.items():
        assert torch.equal(loaded[name], tensor)
        assert loaded[name].dtype == tensor.dtype
    with np.load(tmp_path / "m.npz") as file:
        assert file["w"].dtype == np.float32


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    save_model(path, {"w": np.ones(1)})
    cases: list[tuple[Any, str]] = [
        ({"w": np.zeros(1), "x": b"bytes"}, r"model\.x: a bytes cannot be saved"),
        ({"w": np.array([None])}, r"model\.w: an array of dtype object cannot be saved"),
        ({"w": {1: np.zeros(1)}}, r"model\.w: keys must be str, but one is 1"),
    ]
    for bad, text in cases:
        with pytest.raises(ValueError, match=text):
            save_model(path, bad)
    assert load_model(path)[0]["w"][0] == 1
    assert os.listdir(tmp_path) == ["m.npz"]


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    np.savez(tmp_path / "other.npz", w=np.zeros(1))
    for name in ("text", "other.npz"):
        with pytest.raises(ValueError, match=rf"{name} is not a model that save_model\(\) wrote"):
            load_model(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        load_model(tmp_path / "absent.npz")


def test_a_store_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "deep" / "models")
    assert store.save({"w": np.zeros(1)}, {"round": 1}, best=True).name == "best_FL_global_model.npz"
    assert store.save({"w": np.ones(1)}, {"round": 2}).name == "FL_global_model.npz"
    assert (store.load()[1], store.load(best=True)[1]) == ({"round": 2}, {"round": 1})
    assert "models" in repr(store)


def test_the_history_of_a_store_is_returned_with_the_newest_model(tmp_path: Path) -> None:
    store, model = ModelStore(tmp_path / "models"), {"w": np.ones(1)}
    assert store.history(9) == []
    for rounds in (1, 2, 3):
        store.save_round(model, rounds, {"round": rounds})
    assert store.load()[1] == {"rounds": 3, "history": [{"round": 1}, {"round": 2}, {"round": 3}]}


def test_a_round_that_is_repeated_or_begun_anew_is_in_the_history_once(tmp_path: Path) -> None:
    store, model = ModelStore(tmp_path), {"w": np.ones(1)}
    for rounds, entry in ((1, "a"), (2, "b"), (3, "c"), (2, "B"), (3, "C")):
        store.save_round(model, rounds, entry)
    assert store.load()[1]["history"] == ["a", "B", "C"]
    store.save_round(model, 1, "anew")
    assert store.load()[1] == {"rounds": 1, "history": ["anew"]}


def test_a_torn_line_and_a_round_without_its_model_are_no_part_of_the_history(tmp_path: Path) -> None:
    store, model = ModelStore(tmp_path), {"w": np.ones(1)}
    store.save_round(model, 1, "a")
    with (tmp_path / ModelStore.HISTORY).open("ab") as file:
        file.write(b'\n[2, "lost"]\n[3, "to')
    assert store.load()[1] == {"rounds": 1, "history": ["a"]}
    store.save_round(model, 2, "b")
    assert store.load()[1] == {"rounds": 2, "history": ["a", "b"]}


def test_a_run_begins_with_a_model_a_function_or_a_file(tmp_path: Path) -> None:
    model = {"w": np.ones(1)}
    save_model(tmp_path / "m.npz", model)
    assert initial(model) is model
    assert initial(lambda: model) is model
    assert initial(tmp_path / "m.npz")["w"] == initial(str(tmp_path / "m.npz"))["w"] == 1
    with pytest.raises(TypeError, match="must be a dict of arrays, but is a list"):
        initial([])  # type: ignore[arg-type]
