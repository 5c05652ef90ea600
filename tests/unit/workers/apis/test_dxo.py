"""A DXO has the kind of its data, checks it, and is sent inside a Shareable."""

from __future__ import annotations

from typing import Any

import pytest
from redflare_broker.payload.encoded_payload import encode_payload
from redflare_workers.apis import DXO, DataKind, MetaKey, Shareable, from_dict, from_shareable


def test_a_dxo_survives_its_way_through_a_shareable_without_copies() -> None:
    weights = {"w": [1.0, 2.0]}
    shareable = DXO(DataKind.WEIGHTS, weights, {MetaKey.CURRENT_ROUND: 1}).to_shareable()
    result = from_shareable(shareable)
    assert (result.data_kind, result.data, result.meta) == ("WEIGHTS", weights, {"current_round": 1})
    assert result.data is weights


def test_update_shareable_keeps_other_content() -> None:
    shareable = Shareable({"other": 1})
    shareable.set_header("round", 2)
    assert DXO(DataKind.METRICS, {"loss": 0.5}).update_shareable(shareable) is shareable
    assert shareable["other"] == 1
    assert shareable.get_header("round") == 2
    assert from_shareable(shareable).data == {"loss": 0.5}


def test_missing_data_and_meta_become_empty_dicts() -> None:
    dxo = DXO(DataKind.WEIGHTS, None)
    assert (dxo.data, dxo.meta) == ({}, {})


def test_only_app_defined_data_may_be_other_than_a_dict() -> None:
    assert DXO(DataKind.APP_DEFINED, [1, 2]).data == [1, 2]
    with pytest.raises(ValueError, match="invalid DXO: data of kind WEIGHTS must be a dict, but is list"):
        DXO(DataKind.WEIGHTS, [1, 2])


def test_meta_must_be_a_dict() -> None:
    with pytest.raises(ValueError, match="meta must be a dict, but is str"):
        DXO(DataKind.WEIGHTS, {}, "meta")  # type: ignore[arg-type]


def test_validate_finds_what_went_wrong_later() -> None:
    dxo = DXO(DataKind.WEIGHTS, {})
    assert dxo.validate() == ""
    dxo.data = None
    assert dxo.validate() == "data is missing"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "holds no DXO: its content type is None"),
        ("other", "holds no DXO: its content type is 'other'"),
    ],
)
def test_a_shareable_of_another_content_type_holds_no_dxo(content: str | None, complaint: str) -> None:
    shareable = Shareable({"DXO": {"kind": "WEIGHTS", "data": {}, "meta": {}}})
    if content:
        shareable.set_header("__content_type__", content)
    with pytest.raises(ValueError, match=complaint):
        from_shareable(shareable)


@pytest.mark.parametrize(
    ("encoded", "complaint"),
    [
        (None, "says it holds a DXO, but 'DXO' is None"),
        ([1], "an encoded DXO must be a dict, but is list"),
        ({"kind": "WEIGHTS", "data": 7}, "must be a dict, but is int"),
    ],
)
def test_a_broken_dxo_is_refused_with_the_reason(encoded: Any, complaint: str) -> None:
    shareable = DXO(DataKind.WEIGHTS, {}).to_shareable()
    shareable["DXO"] = encoded
    with pytest.raises(ValueError, match=complaint):
        from_shareable(shareable)


def test_to_dict_and_from_dict_are_inverse() -> None:
    encoded = {"kind": "APP_DEFINED", "data": 0, "meta": {"a": 1}}
    assert from_dict(encoded).to_dict() == encoded


def test_meta_props_are_set_read_removed_and_merged_by_copy() -> None:
    dxo = DXO(DataKind.WEIGHTS, {})
    dxo.set_meta_prop("a", 1)
    nested = {"n": [1]}
    dxo.update_meta_props({"b": nested})
    nested["n"].append(2)
    assert dxo.get_meta_props() == {"a": 1, "b": {"n": [1]}}
    dxo.remove_meta_props(["a", "absent"])
    assert dxo.get_meta_prop("a", "gone") == "gone"


def test_the_filter_history_grows_by_one_or_several_names() -> None:
    dxo = DXO(DataKind.WEIGHTS, {})
    assert dxo.get_filter_history() is None
    dxo.add_filter_history("noise")
    dxo.add_filter_history(["clip", "quantize"])
    dxo.add_filter_history([])
    assert dxo.get_filter_history() == ["noise", "clip", "quantize"]


def test_data_kinds_have_nvflares_values() -> None:
    assert f"{DataKind.WEIGHT_DIFF}" == DataKind.WEIGHT_DIFF == "WEIGHT_DIFF"


def test_repr_names_the_keys_of_the_data_and_not_the_data() -> None:
    assert repr(DXO(DataKind.WEIGHTS, {"w": "x" * 1000})) == "DXO(data_kind=WEIGHTS, data=['w'], meta={})"


@pytest.mark.parametrize("kind", [DataKind.WEIGHTS, DataKind.APP_DEFINED])
def test_encoded_data_stands_for_any_kind_and_stays_encoded(kind: DataKind) -> None:
    encoded = encode_payload({"w": [1.0]})
    dxo = from_shareable(DXO(kind, encoded).to_shareable())
    assert dxo.data is encoded
    assert "EncodedPayload" in repr(dxo)
