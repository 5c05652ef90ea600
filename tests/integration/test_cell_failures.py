"""Faults that cells survive: a broken network, a restart of the server, the kill of a process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from redflare_broker.cell.cell import Cell, HandlerResult, Request
from redflare_broker.embedded.server import EmbeddedServer

from tests.programs import cell as program
from tests.programs.cell import CellArgs
from tests.support.cell.cells import SETTINGS, Parking, Replies, cells_at, threads_of
from tests.support.process.child import Child
from tests.support.redis_server.kinds import embedded
from tests.support.redis_server.proxy import Proxy, proxy
from tests.support.waiting import wait_until

BIG = np.arange(50_000.0)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with EmbeddedServer() as server:
        yield server.url


@pytest.fixture
def cable(url: str) -> Iterator[Proxy]:
    with proxy(url) as laid:
        yield laid


class Once:
    """A handler that counts the requests with each number."""

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}

    def __call__(self, request: Request) -> HandlerResult:
        number = request.meta["number"]
        self.counts[number] = self.counts.get(number, 0) + 1
        return "OK", {"number": number}, request.data


@pytest.mark.parametrize("how", ["drop", "half open"])
def test_requests_survive_a_network_that_breaks_again_and_again(
    url: str, cable: Proxy, namespace: str, how: str
) -> None:
    handler = Once()
    with cells_at(url, namespace) as near, cells_at(cable.url, namespace) as far:
        near.make("server", {"do": handler})
        site = far.make("site")
        replies = Replies()
        for number in range(60):
            site.ask("c", "do", "server", {"number": number}, BIG if number % 10 == 0 else None, on_reply=replies)
            if number % 20 == 10:
                cable.drop() if how == "drop" else cable.half_open()
                wait_until(lambda: site._silent, what="a heartbeat without an answer")
                cable.pass_through()
        wait_until(lambda: len(replies.all) == 60, 30)
        assert sorted(reply.meta["number"] for reply in replies.all) == list(range(60))
        assert handler.counts == dict.fromkeys(range(60), 1)
        for reply in replies.all:
            reply.release()
        wait_until(lambda: not near.blobs())


def test_a_handler_behind_a_broken_network_answers_when_it_is_back(url: str, cable: Proxy, namespace: str) -> None:
    parking = Parking()
    with cells_at(url, namespace) as near, cells_at(cable.url, namespace) as far:
        far.make("server", {"park": parking})
        replies = Replies()
        near.make("site").ask("c", "park", "server", on_reply=replies)
        request = parking.wait()
        cable.drop()
        request.reply("OK", {"late": True})
        assert not replies.all
        cable.pass_through()
        wait_until(lambda: replies.all)
        assert replies.all[0].meta == {"late": True}


def test_requests_and_replies_wait_while_the_memory_is_full(namespace: str, caplog: pytest.LogCaptureFixture) -> None:
    parking, replies = Parking(), Replies()
    with EmbeddedServer() as server, cells_at(server.url, namespace) as cells:
        cells.make("server", {"park": parking})
        site = cells.make("site")
        site.ask("c", "park", "server", on_reply=replies)
        request = parking.wait()
        cells.redis("CONFIG", "SET", "maxmemory", 1)
        request.reply("OK", {"late": True})
        site.ask("c", "park", "server", on_reply=replies)
        wait_until(lambda: caplog.text.count(": writing waits: ") == 2, what="both say that they wait")
        assert not replies.all
        cells.redis("CONFIG", "SET", "maxmemory", 0)
        parking.wait(2)
        parking.parked[1].reply("OK", {"late": True})
        wait_until(lambda: len(replies.all) == 2)
        assert [reply.meta for reply in replies.all] == [{"late": True}] * 2
    assert caplog.text.count(": writing waits: ") == 2


def test_a_cell_starts_when_its_server_does(namespace: str) -> None:
    with embedded() as node, cells_at(node.url, namespace) as cells:
        node.kill()
        made: list[Cell] = []
        starting = threading.Thread(target=lambda: made.append(cells.make("site")))
        starting.start()
        node.restart()
        starting.join(20)
        assert made[0].epoch


@pytest.mark.parametrize("durable", [True, False])
def test_requests_survive_a_restart_of_the_server(namespace: str, durable: bool) -> None:
    parking = Parking()
    with embedded(durable=durable) as node, cells_at(node.url, namespace) as cells:
        cells.make("server", {"park": parking})
        site = cells.make("site")
        replies = Replies()
        for _ in range(10):
            site.ask("c", "park", "server", on_reply=replies)
        parking.wait(10)
        node.kill()
        parking.parked[0].reply()
        site.ask("c", "park", "server", on_reply=replies)
        node.restart()
        wait_until(lambda: len({request.id for request in parking.parked}) == 11, 20)
        wait_until(lambda: len(replies.all) == 1, 20)
        for request in parking.parked[1:]:
            request.reply()
        wait_until(lambda: len(replies.all) == 11, 20)
        assert all(reply.ok for reply in replies.all)
        wait_until(lambda: not cells.entries("site"))


def test_a_request_stays_until_its_reply_is_written(url: str, cable: Proxy, namespace: str) -> None:
    parking, replies = Parking(), Replies()
    with cells_at(url, namespace) as near, cells_at(cable.url, namespace) as far:
        server = far.make("server", {"park": parking})
        near.make("site").ask("c", "park", "server", on_reply=replies)
        request = parking.wait()
        cable.drop()
        request.reply()
        wait_until(lambda: server._silent)
        assert [entry["id"] for entry in near.entries("server")] == [request.id]
        cable.pass_through()
        wait_until(lambda: replies.all)
        wait_until(lambda: not near.entries("server"))
        assert len(parking.parked) == 1


def test_a_cell_stops_in_time_when_its_server_is_away(namespace: str, caplog: pytest.LogCaptureFixture) -> None:
    with embedded() as node, cells_at(node.url, namespace) as cells:
        site = cells.make("site")
        node.kill()
        site.fire_and_forget("c", "note", "server")
        started = time.monotonic()
        site.stop(timeout=0.5)
        assert time.monotonic() - started < 5
        assert "1 messages could not be written, Redis is unreachable" in caplog.text
        assert threads_of("site") == []
        node.restart()


def test_a_request_that_was_parked_by_a_process_that_was_killed_is_parked_by_its_successor(
    url: str, namespace: str, tmp_path: Path
) -> None:
    args = CellArgs(url=url, settings=replace(SETTINGS, namespace=namespace))
    with cells_at(url, namespace) as cells:
        site = cells.make("site")
        replies = Replies()
        site.ask("c", "park", "server", on_reply=replies, request_id="one")
        with Child(program.main, args, tmp_path / "first.log") as first:
            (epoch,) = first.receive("started")
            assert first.receive("parked")[0] == "one"
            first.kill()
        with Child(program.main, args, tmp_path / "second.log") as second:
            assert second.receive("started")[0] > epoch
            assert second.receive("parked")[0] == "one"
            assert site.send_request("c", "echo", "server", None, BIG, timeout=10).ok
            second.end()
        assert not replies.all


def test_a_cell_cannot_be_used_in_a_fork_but_in_its_parent(url: str, namespace: str, tmp_path: Path) -> None:
    args = CellArgs(url=url, settings=replace(SETTINGS, namespace=namespace))
    with cells_at(url, namespace) as cells, Child(program.main, args, tmp_path / "fork.log") as child:
        child.receive("started")
        child.send("fork")
        assert "before a fork: make a new Cell in this one" in child.receive("forked")[0]
        assert cells.make("site").send_request("c", "echo", "server", None, 3, timeout=10).data == 3
        child.end()
