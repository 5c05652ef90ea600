"""Shareables as messages: what is meta, what is data, what stays encoded, and what is refused."""

from __future__ import annotations

from typing import Any

import fakeredis
import numpy as np
import pytest
from redflare_broker.errors import BlobMissing, DecodeError, EncodeError
from redflare_broker.payload.encoded_payload import EncodedPayload, encode_payload, store_payload
from redflare_broker.transport.server import Server
from redflare_broker.wire.limits import CodecLimits
from redflare_workers.apis.dxo import DXO, DataKind, from_shareable
from redflare_workers.apis.shareable import ReservedHeaderKey, Shareable, make_reply
from redflare_workers.protocol.shareable_codec import decoded, encoded_data, from_message, is_encoded_whole, to_message

LIMITS = CodecLimits()


@pytest.fixture
def server() -> Any:
    client = fakeredis.FakeRedis(server=fakeredis.FakeServer())
    with Server.connect("redis://fake", client=client) as connected:
        yield connected
    client.close()


def carried(shareable: Shareable, server: Server) -> Shareable:
    meta, data = to_message(shareable)
    return decoded(from_message(meta, encode_payload(data)), server, LIMITS)


def weights(**meta: Any) -> Shareable:
    return DXO(DataKind.WEIGHTS, {"w": np.arange(3.0)}, meta).to_shareable()


def test_the_data_of_a_dxo_is_the_messages_data_and_all_around_it_is_meta() -> None:
    shareable = weights(steps=7)
    shareable.set_header("current_round", 3)
    shareable["note"] = "hello"
    meta, data = to_message(shareable)
    assert data is from_shareable(shareable).data
    assert meta == {
        "headers": {"current_round": 3, "__content_type__": "DXO"},
        "kind": "WEIGHTS",
        "dxo_meta": {"steps": 7},
        "others": {"note": "hello"},
    }


@pytest.mark.parametrize("where", ["headers", "dxo meta", "beside"])
def test_a_dxo_with_arrays_elsewhere_is_data_as_a_whole_and_is_decoded_unchanged(server: Server, where: str) -> None:
    shareable = weights(**({"extra": np.ones(2)} if where == "dxo meta" else {}))
    if where == "headers":
        shareable.set_header("extra", np.ones(2))
    if where == "beside":
        shareable["extra"] = np.ones(2)
    meta, data = to_message(shareable)
    assert "kind" not in meta
    assert is_encoded_whole(from_message(meta, encode_payload(data)))
    again = carried(shareable, server)
    dxo = from_shareable(again)
    assert list(dxo.data["w"]) == [0, 1, 2]
    extra = {"headers": again.get_header("extra"), "dxo meta": dxo.meta.get("extra"), "beside": again.get("extra")}
    assert list(extra[where]) == [1, 1]


@pytest.mark.parametrize(
    "value", [np.float64(0.5), np.float32(0.5), np.int64(3), float("inf"), (1, "two"), 1 << 70], ids=repr
)
def test_numbers_of_any_kind_in_the_meta_leave_the_data_to_be_passed_on(server: Server, value: Any) -> None:
    shareable = weights(value=value)
    meta, _data = to_message(shareable)
    assert meta["kind"] == "WEIGHTS"
    assert from_shareable(carried(shareable, server)).meta["value"] == value


@pytest.mark.parametrize(
    "shareable",
    [Shareable(), Shareable({"a": [1, {"b": None}], "w": 1.5}), make_reply("EMPTY_RESULT")],
    ids=["empty", "plain", "reply"],
)
def test_a_shareable_without_a_dxo_is_decoded_unchanged(server: Server, shareable: Shareable) -> None:
    shareable.set_header("x", {"deep": [1]})
    assert carried(shareable, server) == shareable


def test_the_context_of_a_peer_is_not_sent(server: Server) -> None:
    shareable = weights()
    shareable.set_header(ReservedHeaderKey.PEER_CTX, object())
    assert carried(shareable, server).get_header(ReservedHeaderKey.PEER_CTX) is None
    assert shareable.get_header(ReservedHeaderKey.PEER_CTX) is not None


def test_an_encoded_payload_is_passed_on_unchanged() -> None:
    encoded = encode_payload({"w": np.ones(3)})
    passed = DXO(DataKind.WEIGHTS, encoded).to_shareable()
    assert encoded_data(passed) is encoded
    assert to_message(passed)[1] is encoded
    received = from_message({"headers": {"a": 1}}, encoded)
    assert encoded_data(received) is encoded
    assert to_message(received) == ({"headers": {"a": 1}}, encoded)
    assert encoded_data(weights()) is None


def test_decoding_data_that_is_not_encoded_changes_nothing(server: Server) -> None:
    shareable = weights()
    assert decoded(shareable, server, LIMITS) is shareable


def test_chunks_that_are_gone_are_missing(server: Server) -> None:
    meta, data = to_message(DXO(DataKind.WEIGHTS, {"w": np.ones(100_000)}).to_shareable())
    encoded = store_payload(server, encode_payload(data), "flare:{x}:blob:1", ttl_ms=1000)
    with server.borrow("x") as connection:
        connection.call("DEL", "flare:{x}:blob:1:0")
    with pytest.raises(BlobMissing):
        decoded(from_message(meta, encoded), server, LIMITS)


def test_the_error_of_data_that_cannot_be_encoded_names_the_place() -> None:
    _, data = to_message(Shareable({"deep": {"thing": object()}}))
    with pytest.raises(EncodeError, match="thing"):
        encode_payload(data)


@pytest.mark.parametrize("no", [None, {}, [], "text", DXO(DataKind.WEIGHTS, {})], ids=repr)
def test_only_a_shareable_can_be_sent(no: Any) -> None:
    with pytest.raises(TypeError, match=type(no).__name__):
        to_message(no)


@pytest.mark.parametrize("kind", [5, None, "not a dict"], ids=repr)
def test_a_shareable_that_only_claims_to_hold_a_dxo_is_carried_as_it_is(server: Server, kind: Any) -> None:
    shareable = Shareable({"DXO": kind})
    shareable.set_header(ReservedHeaderKey.CONTENT_TYPE, "DXO")
    assert carried(shareable, server) == shareable


@pytest.mark.parametrize(
    ("meta", "data"),
    [
        (None, {}),
        (5, {}),
        ([], {}),
        ({"headers": 5}, {}),
        ({"headers": None}, {}),
        ({"kind": 5}, {}),
        ({"kind": "WEIGHTS", "dxo_meta": 5}, {}),
        ({"kind": "WEIGHTS", "others": 5}, {}),
        ({"kind": "WEIGHTS"}, [1, 2]),
        ({}, [1, 2]),
        ({}, None),
        ({}, 7),
        ({}, {"__headers__": 7}),
    ],
    ids=repr,
)
def test_a_message_that_carries_no_shareable_is_refused(meta: Any, data: Any) -> None:
    with pytest.raises(DecodeError):
        from_message(meta, data)


@pytest.mark.parametrize("text", [b"", b"nonsense", b"[1]", b'{"$nd":[0,"float32",[3]]}', b"null"], ids=repr)
def test_encoded_data_that_is_no_shareable_is_refused_when_it_is_decoded(server: Server, text: bytes) -> None:
    with pytest.raises(DecodeError):
        decoded(from_message({}, EncodedPayload(text)), server, LIMITS)
