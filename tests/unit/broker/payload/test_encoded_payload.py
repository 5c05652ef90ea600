"""An encoded payload: decoding returns what was encoded, and a process that passes it on does not decode it."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing, nullcontext
from functools import partial
from typing import Any, NoReturn

import fakeredis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redflare_broker.errors import BlobMissing, DecodeError, EncodeError, MessageTooLarge, Unavailable
from redflare_broker.payload.encoded_payload import EncodedPayload, encode_payload, store_payload
from redflare_broker.payload.redis_store import RedisPayloadStore
from redflare_broker.transport.cluster_slots import Address
from redflare_broker.transport.dial import Dialer
from redflare_broker.transport.server import ConnectionOptions, Server
from redflare_broker.wire.limits import CodecLimits
from redflare_broker.wire.task_entry import BlobRef

PREFIX = "flare:blob:{model}"
TTL = 60_000
#: All but the smallest payloads are stored, in many chunks.
TINY = CodecLimits(inline_bytes=100, chunk_bytes=64)

trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=10,
)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server.connect(client=fakeredis.FakeRedis(server=fakeredis.FakeServer())) as server:
        yield server


def model() -> dict[str, Any]:
    return {"w": np.arange(1000.0), "layers": ({"b": np.ones((3, 4), "f2")}, "name", float("inf")), "raw": b"\x00\xff"}


def assert_is_model(tree: Any) -> None:
    np.testing.assert_array_equal(tree["w"], np.arange(1000.0))
    (layer, name, infinite) = tree["layers"]
    assert (layer["b"].dtype, layer["b"].shape, name, infinite) == (np.dtype("f2"), (3, 4), "name", float("inf"))
    assert tree["raw"] == b"\x00\xff"


@given(trees)
def test_any_tree_is_decoded_as_it_was_encoded(tree: object) -> None:
    assert encode_payload(tree).decode() == tree


def test_encoding_copies_no_array() -> None:
    array = np.zeros(10)
    payload = encode_payload({"w": array})
    array[3] = 7.0
    assert payload.decode()["w"][3] == 7.0


def test_each_decoding_returns_a_tree_of_its_own() -> None:
    payload = encode_payload(model())
    first = payload.decode()
    first["w"][:] = 0
    first["layers"][0]["b"][:] = 0
    assert_is_model(payload.decode())


def test_an_encoded_payload_is_immutable() -> None:
    payload = encode_payload({"w": 1})
    assert encode_payload(payload) is payload


def test_a_small_payload_is_not_stored(server: Server) -> None:
    payload = encode_payload({"w": np.ones(2)})
    assert store_payload(server, payload, PREFIX, ttl_ms=TTL) is payload


def test_a_payload_without_buffers_is_not_stored_however_long_its_text(server: Server) -> None:
    payload = encode_payload(["x" * 100] * 1000)
    assert store_payload(server, payload, PREFIX, TINY, ttl_ms=TTL) is payload


def test_a_large_payload_is_stored_in_chunks(server: Server) -> None:
    payload = encode_payload(model())
    stored = store_payload(server, payload, PREFIX, TINY, ttl_ms=TTL)
    assert stored.blob is not None
    assert (stored.buffers, stored.blob.prefix, stored.nbytes) == ((), PREFIX, payload.nbytes)
    assert_is_model(stored.decode(server))
    assert store_payload(server, stored, "flare:blob:{other}", TINY, ttl_ms=TTL) is stored


def test_many_small_buffers_are_stored_in_chunks_too(server: Server) -> None:
    stored = store_payload(server, encode_payload([b"x"] * 300), PREFIX, ttl_ms=TTL)
    assert stored.blob is not None
    assert stored.decode(server) == [b"x"] * 300


def test_missing_chunks_are_reported(server: Server) -> None:
    stored = store_payload(server, encode_payload(model()), PREFIX, TINY, ttl_ms=TTL)
    assert stored.blob is not None
    RedisPayloadStore(server).remove(stored.blob)
    with pytest.raises(BlobMissing, match="model"):
        stored.decode(server)


def test_chunks_need_a_server_to_be_read() -> None:
    with pytest.raises(DecodeError, match="without the Redis"):
        EncodedPayload(b"{}", blob=BlobRef(prefix=PREFIX, chunk=1, sizes=(1,))).decode()


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(EncodedPayload(b"{"), id="no JSON"),
        pytest.param(EncodedPayload(b'{"$nd":[0,"float64",[2]]}'), id="a buffer that is not there"),
        pytest.param(EncodedPayload(b"{}", (b"x",)), id="a buffer that is not referenced"),
        pytest.param(EncodedPayload(b'{"$nd":[1,"float64",[1]]}', (b"x" * 8,)), id="numbered from 1"),
        pytest.param(EncodedPayload(b'{"$what":1}'), id="an unknown mark"),
    ],
)
def test_malformed_payloads_are_refused(payload: EncodedPayload) -> None:
    with pytest.raises(DecodeError):
        payload.decode()


def test_a_reference_over_the_limit_is_refused_before_it_is_fetched(server: Server) -> None:
    huge = BlobRef(prefix=PREFIX, chunk=1 << 30, sizes=(8 << 40,))
    with pytest.raises(DecodeError, match="max_bytes"):
        EncodedPayload(b'{"$bytes":[0,%d]}' % (8 << 40), blob=huge).decode(server)


@pytest.mark.parametrize(
    ("ref", "reason"),
    [
        (BlobRef(prefix="flare:blob:{x}", chunk=0, sizes=(4,)), "cut every 0 bytes"),
        (BlobRef(prefix="flare:blob:{x}", chunk=1, sizes=(1 << 17,)), "claims 131072 chunks"),
    ],
    ids=["no-chunk", "too-many"],
)
def test_an_impossible_reference_is_refused_before_it_is_fetched(server: Server, ref: BlobRef, reason: str) -> None:
    data = b'{"$bytes":[0,%d]}' % ref.sizes[0]
    with pytest.raises(DecodeError, match=reason):
        EncodedPayload(data, blob=ref).decode(server)


def test_what_cannot_be_sent_is_refused_by_the_encoding() -> None:
    with pytest.raises(EncodeError, match=r"data.*x"):
        encode_payload({"x": object()})
    with pytest.raises(MessageTooLarge):
        encode_payload(np.zeros(1000), CodecLimits(max_bytes=100))


def test_buffers_in_two_places_are_refused() -> None:
    with pytest.raises(ValueError, match="one place"):
        EncodedPayload(b"{}", (b"x",), BlobRef(prefix=PREFIX, chunk=1, sizes=(1,)))


def test_a_deep_copy_does_not_share_memory_that_may_change(server: Server) -> None:
    array = np.zeros(1000)
    payload = encode_payload({"w": array})
    stored = store_payload(server, payload, PREFIX, ttl_ms=TTL, limits=TINY)
    copied = copy.deepcopy(payload)
    array[0] = 1.0
    assert copied.decode()["w"][0] == 0.0
    assert copy.deepcopy(copied) is copied
    assert copy.deepcopy({"data": stored})["data"] is stored


def test_its_repr_is_short() -> None:
    assert len(repr(encode_payload(model()))) < 100


def test_a_payload_of_as_many_bytes_as_an_entry_takes_fits_into_it() -> None:
    limits = CodecLimits(inline_bytes=100)
    assert EncodedPayload(b"1", (b"x" * 99,)).fits_entry(limits)
    assert not EncodedPayload(b"1", (b"x" * 100,)).fits_entry(limits)


class Unreachable(Dialer):
    """The way to a Redis that is away."""

    def dial(self, address: Address | None) -> NoReturn:
        raise Unavailable("it is away")


def test_who_stores_or_reads_a_payload_while_redis_is_away_can_give_up() -> None:
    payload, stored = encode_payload(model(), TINY), BlobRef(prefix=PREFIX, chunk=8, sizes=(8,))
    reference = EncodedPayload(b'{"$nd":[0,"float64",[1]]}', blob=stored)
    with Server(Unreachable("nowhere"), ConnectionOptions()) as away, ThreadPoolExecutor() as pool:
        for options in ({"stop": lambda: True}, {"deadline": time.monotonic()}):
            attempts: list[Callable[[], object]] = [
                partial(store_payload, away, payload, PREFIX, TINY, ttl_ms=TTL, **options),
                partial(reference.decode, away, **options),
            ]
            for attempt in attempts:
                failure = pool.submit(attempt)
                with closing(away) if not wait([failure], 10).done else nullcontext():
                    assert isinstance(failure.exception(1), Unavailable)
