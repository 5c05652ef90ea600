"""A primary that the Sentinels have replaced is left, whether they told or must be asked."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import fakeredis
import pytest
from redflare_broker.runtime.heartbeat import Heartbeats
from redflare_broker.runtime.primary_watch import PrimaryWatch
from redflare_broker.transport.server import Server

from tests.support.waiting import wait_until


class WatchedServer:
    """A server that is found through Sentinels; records which primary is the only one that it keeps."""

    url = "redis+sentinel://fake/main"
    service = "main"
    cluster = False

    def __init__(self) -> None:
        client = fakeredis.FakeRedis(server=fakeredis.FakeServer())
        self.found = Server.connect(client=client)
        self.borrow = self.found.borrow
        self.kept: list[tuple[str, int]] = []
        self.asked: list[tuple[object, ...]] = []
        self.closed = threading.Event()
        self.found.borrow = self._ask  # type: ignore[method-assign, assignment]
        self._close = self.found.close
        self.found.close = self._note_close  # type: ignore[method-assign]

    def _note_close(self) -> None:
        self.closed.set()
        self._close()

    def sentinels(self) -> Server:
        return self.found

    def leave_all_but(self, primary: tuple[str, int]) -> None:
        self.kept.append(primary)

    def publish(self, message: str) -> None:
        with self.borrow("") as connection:
            assert connection.call("PUBLISH", "+switch-master", message) == 1

    @contextmanager
    def _ask(self, route: str) -> Iterator[WatchedServer]:
        yield self

    def call(self, *command: object) -> list[bytes]:
        self.asked.append(command)
        return [b"10.0.0.1", b"6379"]


@pytest.fixture
def server() -> WatchedServer:
    return WatchedServer()


@pytest.fixture
def watch(server: WatchedServer) -> Iterator[PrimaryWatch]:
    made = PrimaryWatch(cast("Any", server))
    yield made
    made.stop()


def test_each_subscription_asks_who_is_the_primary(server: WatchedServer, watch: PrimaryWatch) -> None:
    watch.start()
    wait_until(lambda: server.kept == [("10.0.0.1", 6379)])
    assert server.asked == [("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main")]


def test_a_new_primary_of_this_service_is_the_only_one_that_is_kept(server: WatchedServer, watch: PrimaryWatch) -> None:
    watch.start()
    wait_until(lambda: server.kept)
    server.publish("another 10.0.0.1 6379 10.0.0.9 6379")
    server.publish("main 10.0.0.1 6379 10.0.0.2 6380")
    wait_until(lambda: len(server.kept) > 1)
    assert server.kept[1:] == [("10.0.0.2", 6380)]


def test_heartbeats_watch_the_primary_until_they_are_stopped(server: WatchedServer) -> None:
    heartbeats = Heartbeats(cast("Any", server))
    heartbeats.start()
    wait_until(lambda: server.kept)
    heartbeats.stop()
    assert server.closed.is_set()
