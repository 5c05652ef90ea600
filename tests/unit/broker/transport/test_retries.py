"""Steps that are tried again while Redis is unavailable."""

from __future__ import annotations

import time
from collections.abc import Iterator

import fakeredis
import pytest
from redflare_broker.errors import BlobMissing, ServerError, Unavailable
from redflare_broker.transport.retries import Retries
from redflare_broker.transport.server import Server


@pytest.fixture
def fake() -> fakeredis.FakeServer:
    return fakeredis.FakeServer()


@pytest.fixture
def failures() -> list[Unavailable]:
    return []


@pytest.fixture
def server(fake: fakeredis.FakeServer, failures: list[Unavailable]) -> Iterator[Server]:
    """One that is back as soon as its failure is told."""

    def on_failure(error: Unavailable) -> None:
        failures.append(error)
        fake.connected = True

    with Server.connect(client=fakeredis.FakeRedis(server=fake)) as made:
        made.retries = Retries(60.0, on_failure)
        yield made


def test_every_kind_of_step_survives_an_outage(
    server: Server, fake: fakeredis.FakeServer, failures: list[Unavailable]
) -> None:
    payload, target = memoryview(b"payload"), memoryview(bytearray(7))
    with server.borrow("k") as connection:
        fake.connected = False
        assert connection.call("SET", "k", 1) == b"OK"
        fake.connected = False
        assert connection.pipeline([("GET", "k"), ("GET", "l")]) == [b"1", None]
        fake.connected = False
        connection.store(iter([("blob", [payload])]), 60_000)
        fake.connected = False
        connection.load([("blob", [target])])
        assert target == payload
    fake.connected = False
    assert sorted(server.scan("*")) == ["blob", "k"]
    assert len(failures) == 5


def test_what_redis_refuses_for_good_is_not_tried_again(server: Server, failures: list[Unavailable]) -> None:
    with server.borrow("k") as connection:
        with pytest.raises(ServerError):
            connection.call("NO-SUCH-COMMAND")
        with pytest.raises(BlobMissing):
            connection.load([("k", [memoryview(bytearray(1))])])
    assert failures == []


def test_an_attempt_that_takes_longer_than_the_patience_is_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Unavailable] = []
    attempts: list[int] = []
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def step() -> None:
        attempts.append(1)
        now[0] += 5.0
        raise Unavailable("away")

    with pytest.raises(Unavailable, match="away"):
        Retries(1.0, told.append).run(step)
    assert (len(attempts), told) == (1, [])


def test_an_outage_that_lasts_is_told_once_and_then_raised() -> None:
    told: list[Unavailable] = []
    attempts: list[int] = []

    def step() -> None:
        attempts.append(1)
        raise Unavailable("away")

    with pytest.raises(Unavailable, match="away"):
        Retries(0.2, told.append).run(step)
    assert len(told) == 1
    assert len(attempts) > 1
