"""A payload whose node is away when it is to be deleted is deleted with a later heartbeat, whoever deletes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, NoReturn

import fakeredis
import pytest
from redflare_broker.cell.request import Payload
from redflare_broker.config.retention import JobRetentionPolicy
from redflare_broker.config.settings import LinkSettings
from redflare_broker.errors import ServerError, Unavailable
from redflare_broker.job_store.record import StoredFile
from redflare_broker.job_store.steps import StoreSteps
from redflare_broker.keys import Keys
from redflare_broker.link.payloads import LinkPayloads
from redflare_broker.link.session import Session
from redflare_broker.payload.encoded_payload import EncodedPayload, encode_payload, store_payload
from redflare_broker.payload.payload_store import discard
from redflare_broker.payload.redis_store import RedisPayloadStore
from redflare_broker.runtime.heartbeat import Heartbeats
from redflare_broker.transport.cluster_slots import Address
from redflare_broker.transport.dial import Dialer
from redflare_broker.transport.server import ConnectionOptions, Server
from redflare_broker.wire.limits import CodecLimits
from redflare_broker.wire.task_entry import BlobRef

from tests.support.link.endpoints import BIG
from tests.support.waiting import wait_until

PREFIX = "flare:{site-1--agent}:blob:p"


class Beater:
    """What a heartbeat thread beats for."""

    route = "any"
    interval = 0.01

    def beat(self) -> list[Any]:
        return ["PING"]

    def on_beat(self, reply: object) -> None:
        pass

    def on_silence(self, error: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server.connect(client=fakeredis.FakeRedis(server=fakeredis.FakeServer())) as connected:
        yield connected


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Payloads under these prefixes cannot be reached."""
    gone: list[str] = []
    for name in ("remove", "renew"):
        original = getattr(RedisPayloadStore, name)

        def step(self: RedisPayloadStore, ref: BlobRef, *args: Any, original: Any = original, **options: Any) -> object:
            if ref.prefix in gone:
                raise Unavailable("the shard is away")
            return original(self, ref, *args, **options)

        monkeypatch.setattr(RedisPayloadStore, name, step)
    return gone


def stored(server: Server, prefix: str = PREFIX) -> EncodedPayload:
    return store_payload(server, encode_payload(BIG), prefix, ttl_ms=60_000)


def link_payloads(server: Server) -> LinkPayloads:
    return LinkPayloads(Session(server, "site-1--agent", "agent", LinkSettings()))


def by_link(server: Server, payload: EncodedPayload) -> None:
    link_payloads(server).delete(payload.blob)


def by_request(server: Server, payload: EncodedPayload) -> None:
    Payload(payload, True, server, CodecLimits()).release()


def by_job_store(server: Server, payload: EncodedPayload) -> None:
    assert payload.blob is not None
    steps = StoreSteps(server, Keys("flare").store(), JobRetentionPolicy(), None)
    steps.remove(StoredFile(blob=payload.blob, sha256=""))


@pytest.mark.parametrize("delete", [by_link, by_request, by_job_store])
def test_it_is_deleted_with_a_later_heartbeat(
    server: Server, away: list[str], delete: Callable[[Server, EncodedPayload], None]
) -> None:
    payload = stored(server)
    away.append(PREFIX)
    delete(server, payload)
    assert list(server.scan(f"{PREFIX}:*"))
    away.clear()
    beats = Heartbeats(server)
    beats.start()
    try:
        beats.add(Beater())
        wait_until(lambda: not list(server.scan(f"{PREFIX}:*")))
        wait_until(lambda: not len(server.owed))
    finally:
        beats.stop()


def test_one_that_may_not_be_deleted_is_not_tried_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise ServerError("no permission")

    payload = stored(server)
    assert payload.blob is not None
    monkeypatch.setattr(RedisPayloadStore, "remove", refuse)
    discard(server, payload.blob)
    assert not len(server.owed)


def test_one_that_cannot_be_told_when_to_expire_is_told_with_a_later_heartbeat(server: Server, away: list[str]) -> None:
    payload, payloads = stored(server), link_payloads(server)
    assert payload.blob is not None
    away.append(PREFIX)
    payloads.expire(payload.blob, 5.0)
    away.clear()
    payloads.renew()
    with server.borrow(PREFIX) as connection:
        left = connection.call("PTTL", f"{PREFIX}:0")
    assert isinstance(left, int)
    assert 0 < left <= 5_000


def test_one_that_is_kept_again_meanwhile_does_not_expire(server: Server, away: list[str]) -> None:
    payload, payloads = stored(server), link_payloads(server)
    assert payload.blob is not None
    away.append(PREFIX)
    payloads.expire(payload.blob, 5.0)
    payloads.keep(payload.blob)
    away.clear()
    payloads.renew()
    with server.borrow(PREFIX) as connection:
        left = connection.call("PTTL", f"{PREFIX}:0")
    assert isinstance(left, int)
    assert left > 5_000


class Unreachable(Dialer):
    """The way to a Redis that is away."""

    def dial(self, address: Address | None) -> NoReturn:
        raise Unavailable("it is away")


def test_who_discards_a_payload_does_not_wait_for_a_redis_that_is_away() -> None:
    with Server(Unreachable("nowhere"), ConnectionOptions()) as away, ThreadPoolExecutor() as pool:
        discarded = pool.submit(discard, away, BlobRef(prefix=PREFIX, chunk=8, sizes=(8,)))
        done = wait([discarded], 10).done
        away.close()
        assert done
