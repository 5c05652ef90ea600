"""``DataSnapshot`` sees every change of a tree that can be seen without reading arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from redflare_workers.communicator.data_snapshot import DataSnapshot, own_copy, read_only_arrays


def tree() -> dict[str, Any]:
    return {
        "w": np.zeros(3),
        "n": 1,
        "text": "a",
        "nan": float("nan"),
        "bytes": bytearray(b"ab"),
        "deep": {"list": [1, np.ones(2), {"x": 1}], "tuple": (1, {"y": np.zeros(1)})},
    }


def test_what_was_not_changed_is_equal() -> None:
    data = tree()
    snapshot = DataSnapshot(data)
    assert snapshot.equals(DataSnapshot(data))
    assert snapshot.equals(DataSnapshot(dict(data)))
    # what arrays hold is not read
    data["w"] += 1
    assert snapshot.equals(DataSnapshot(data))


CHANGES: list[Callable[[dict[str, Any]], object]] = [
    lambda data: data.update(n=2),
    lambda data: data.update(n=True),
    lambda data: data.update(n=1.0),
    lambda data: data.update(text="b"),
    lambda data: data.update(more=None),
    lambda data: data.pop("n"),
    lambda data: data.update(w=np.zeros(3)),
    lambda data: data["bytes"].extend(b"c"),
    lambda data: data["deep"]["list"].append(1),
    lambda data: data["deep"]["list"].reverse(),
    lambda data: data["deep"]["list"][2].update(x=2),
    lambda data: data["deep"]["tuple"][1].update(y=np.zeros(1)),
    lambda data: data["deep"].update(list=tuple(data["deep"]["list"])),
]


@pytest.mark.parametrize("change", CHANGES, ids=range(len(CHANGES)))
def test_what_was_changed_is_not_equal(change: Callable[[dict[str, Any]], object]) -> None:
    data = tree()
    snapshot = DataSnapshot(data)
    change(data)
    assert not snapshot.equals(DataSnapshot(data))


def test_an_array_in_the_place_of_one_that_is_gone_is_not_equal() -> None:
    data = {"w": np.zeros(3)}
    snapshot = DataSnapshot(data)
    for _ in range(100):
        # memory that is used again must not look like the array that was there
        data["w"] = np.zeros(3)
        assert not snapshot.equals(DataSnapshot(data))


def test_a_tensor_that_was_changed_in_place_is_not_equal() -> None:
    class Tensor:
        _version = 0

    data = {"w": Tensor()}
    snapshot = DataSnapshot(data)
    assert snapshot.equals(DataSnapshot(data))
    data["w"]._version += 1
    assert not snapshot.equals(DataSnapshot(data))


def test_arrays_that_are_put_in_are_reported() -> None:
    data, one, two = tree(), np.ones(1), np.ones(2)
    with read_only_arrays(data) as put_in:
        data["w"] = one
        data["deep"]["list"].append(two)
        data["again"] = data["deep"]["list"][1]
    assert set(put_in) == {id(one), id(two)}
    assert DataSnapshot(data).holds_any(put_in)
    assert not DataSnapshot(tree()).holds_any(put_in)
    assert not DataSnapshot(data).holds_any({})
    copied = own_copy(data, put_in)
    assert copied["w"] is not one
    assert copied["again"] is data["again"]
    one[:] = 5
    assert copied["w"][0] == 1


def test_arrays_are_read_only_inside_and_the_same_ones_afterwards() -> None:
    data = tree()
    before = data["w"], data["deep"]["list"][1], data["deep"]["tuple"][1]["y"]
    with read_only_arrays(data):
        for array in (data["w"], data["deep"]["list"][1], data["deep"]["tuple"][1]["y"]):
            with pytest.raises(ValueError, match="read-only"):
                array[:] = 1
        data["other"] = data.pop("w")
        data["deep"]["list"].insert(0, data["other"])
        data["new"] = new = np.ones(1)
    assert data["other"] is data["deep"]["list"][0] is before[0]
    assert data["deep"]["list"][2] is before[1]
    assert data["deep"]["tuple"][1]["y"] is before[2]
    assert data["new"] is new
    before[0][:] = 1


@pytest.mark.parametrize("first_ends_first", [True, False])
def test_the_arrays_of_two_tasks_at_once_come_back(first_ends_first: bool) -> None:
    model: dict[str, Any] = {"w": np.zeros(3), "list": [np.ones(1)]}
    before = model["w"], model["list"][0]
    first, second = read_only_arrays({"data": model}), read_only_arrays({"data": model})
    first.__enter__()
    second.__enter__()
    for each in (first, second) if first_ends_first else (second, first):
        each.__exit__(None, None, None)
    assert model["w"] is before[0]
    assert model["list"][0] is before[1]


def test_an_array_that_stands_twice_comes_back_in_both_places() -> None:
    array = np.zeros(3)
    shared = [array]
    data: dict[str, Any] = {"a": shared, "b": shared, "c": array}
    with read_only_arrays(data):
        assert not any(each.flags.writeable for each in (data["a"][0], data["c"]))
    assert data["a"][0] is data["c"] is array
