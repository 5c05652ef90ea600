"""What one sender sends by the thousand, and what it costs the others."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator

import pytest
from redflare_broker.cell.cell import EARLY, Cell, HandlerResult, Request
from redflare_broker.config.retention import RetentionPolicy
from redflare_broker.errors import Unavailable
from redflare_broker.wire.message_entry import REPLY, Envelope

from tests.support.cell.cells import Cells, Parking, Replies, cells_on_fakeredis
from tests.support.waiting import wait_until


@pytest.fixture
def cells() -> Iterator[Cells]:
    with cells_on_fakeredis() as made:
        yield made


def flood(cells: Cells, to: str, number: int, *, origin: str = "ghost", **changes: str) -> None:
    """Write as many entries into an inbox as a sender that means harm, or is broken."""
    entry = {"v": "1", "kind": "request", "attempt": "1", "channel": "c", "topic": "nosuch", "origin": origin}
    entry |= {"meta": "{}", "data": "null", **changes}
    for each in range(number):
        fields = {**entry, "id": f"{origin}-{each}"}
        cells.write(to, [part for pair in fields.items() for part in pair], by=origin)


def lines_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


#: Seconds for a flood on a machine that is busy.
LONG = 100.0


def await_empty(cells: Cells, cell: Cell) -> None:
    wait_until(lambda: not any(cells.redis("XLEN", inbox) for inbox in cells.inboxes(cell.fqcn)), LONG)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, "unknown topic"),
        ({"v": "9"}, "entry that cannot be read"),
        ({"meta": "[]", "topic": "fail"}, "entry that cannot be read"),
        ({"topic": "fail"}, "the handler of c failed"),
    ],
    ids=["unknown topic", "unreadable", "bad meta", "handler fails"],
)
def test_a_hundred_faults_of_one_sender_are_two_lines(
    cells: Cells, changes: dict[str, str], kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    flood(cells, "server", 100, **changes)
    server = cells.make("server", {"fail": lambda request: 1 / 0})
    await_empty(cells, server)
    server.stop()
    first, rest = [line for line in lines_of(caplog) if "is not written" not in line]
    assert kind not in first
    assert f"99 more faults of the kind {kind!r} by ghost" in rest
    assert server.faults.totals[kind] == 100


def test_a_reply_of_another_cell_than_the_one_that_was_asked_is_not_taken(cells: Cells) -> None:
    cells.make("server", {"park": Parking()})
    replies, site = Replies(), cells.make("site")
    site.ask("c", "park", "server", on_reply=replies, request_id="x")
    reply = Envelope(kind=REPLY, id="x", attempt=1, channel="c", topic="park", origin="ghost", rc="OK")
    cells.write("site", reply.fields(), by="ghost")
    await_empty(cells, site)
    assert site.faults.totals == {"reply in the name of another": 1}
    assert replies.all == []


def test_another_sender_is_named_although_the_first_one_floods(cells: Cells, caplog: pytest.LogCaptureFixture) -> None:
    flood(cells, "server", 50)
    flood(cells, "server", 1, origin="site-2")
    await_empty(cells, cells.make("server"))
    assert [line for line in lines_of(caplog) if "site-2" in line]


def test_of_replies_to_a_sender_that_never_was_a_few_are_kept_and_not_for_long(cells: Cells) -> None:
    flood(cells, "server", 120, topic="do")
    flood(cells, "server", 120, origin="ghost-2")
    server = cells.make("server", {"do": lambda request: ("OK", None, b"x" * 5000)}, heartbeat_ttl=20.0)
    await_empty(cells, server)
    wait_until(lambda: server.faults.totals == {"unknown topic": 120, "reply to nobody": 20}, LONG)
    wait_until(lambda: len(cells.blobs()) == 500, LONG)
    for ghost in ("ghost", "ghost-2"):
        assert len(cells.entries(ghost)) == 100
        left = cells.redis("PTTL", f"ns:{{{ghost}}}:inbox:server")
        assert isinstance(left, int)
        assert 0 < left <= 20_000


def test_replies_that_a_dead_cell_does_not_read_have_an_end_and_a_short_life(cells: Cells) -> None:
    cells.make("ghost").stop()
    flood(cells, "server", 1200, topic="do")
    server = cells.make("server", {"do": lambda request: None}, policy=RetentionPolicy(settled_retention=20.0))
    await_empty(cells, server)
    wait_until(lambda: server.faults.totals == {"reply to nobody": 200}, LONG)
    assert len(cells.entries("ghost")) == 1000
    left = cells.redis("PTTL", "ns:{ghost}:inbox:server")
    assert isinstance(left, int)
    assert 0 < left <= 20_000


def test_a_cell_whose_heartbeat_is_late_is_answered(cells: Cells) -> None:
    parking, replies = Parking(), Replies()
    cells.make("server", {"park": parking})
    site = cells.make("site")
    site.ask("c", "park", "server", on_reply=replies)
    request = parking.wait()
    # as after a pause of its process, or of Redis
    cells.redis("DEL", "ns:{site}:heartbeat")
    request.reply()
    wait_until(lambda: replies.all)
    assert replies.all[0].ok


class Order:
    """Handles requests, and notes in which order their handlers began."""

    def __init__(self) -> None:
        self.ids: list[str] = []

    def __call__(self, request: Request) -> None:
        self.ids.append(request.id)


@pytest.mark.parametrize("pile", ["handled", "unknown topic", "unreadable"])
def test_a_request_does_not_wait_behind_the_pile_of_another_sender(cells: Cells, pile: str) -> None:
    order = Order()
    changes = {"handled": {"topic": "do"}, "unknown topic": {}, "unreadable": {"v": "9"}}[pile]
    flood(cells, "server", 1000, **changes)
    flood(cells, "server", 1, origin="site-2", topic="do")
    server = cells.make("server", {"do": order})
    wait_until(lambda: "site-2-0" in order.ids, LONG)
    assert order.ids.index("site-2-0") < 600
    # of the pile, most is still in the inbox
    assert len(cells.entries("server")) > 300
    await_empty(cells, server)
    if pile == "handled":
        assert sorted(order.ids) == sorted({f"ghost-{number}" for number in range(1000)} | {"site-2-0"})


def test_a_pile_is_handled_once_also_when_the_inbox_is_read_anew_meanwhile(cells: Cells) -> None:
    order = Order()
    flood(cells, "server", 1000, topic="do")
    server = cells.make("server", {"do": order})
    wait_until(lambda: len(order.ids) > 300, LONG)
    # the next heartbeat that gets through has the inbox read from its beginning
    server.on_silence(Unavailable("a pause"))
    await_empty(cells, server)
    assert sorted(order.ids) == sorted(f"ghost-{number}" for number in range(1000))


# -- requests that are begun and not dealt with ------------------------------------------------------------------------

#: Data of a request of which 104 are 8 MiB, the room of a sender.
LARGE = '"' + 80_000 * "x" + '"'
ROOM = 104


class Slow:
    """A handler that notes its requests, and returns when it may."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.go = threading.Event()

    def __call__(self, request: Request) -> None:
        self.ids.append(request.id)
        self.go.wait(LONG)


def in_hand(cell: Cell) -> int:
    found = re.search(r"(\d+) in hand", repr(cell))
    assert found is not None
    return int(found[1])


def test_handlers_that_do_not_return_have_a_bound_for_each_sender_and_the_rest_waits_in_redis(
    cells: Cells, caplog: pytest.LogCaptureFixture
) -> None:
    slow, order = Slow(), Order()
    flood(cells, "server", 300, topic="slow", data=LARGE)
    flood(cells, "server", 1, origin="site-2", topic="do")
    server = cells.make("server", {"slow": slow, "do": order})
    wait_until(lambda: len(slow.ids) == ROOM + 1 and order.ids, LONG)
    assert in_hand(server) == ROOM + 1
    assert len(cells.entries("server")) == 300
    [line] = [line for line in lines_of(caplog) if "in hand" in line or "still sends" in line]
    assert "requests of ghost are with handlers that do not return" in line
    slow.go.set()
    await_empty(cells, server)
    assert sorted(slow.ids) == sorted(f"ghost-{number}" for number in range(300))


def test_requests_that_come_too_early_have_the_same_bound_and_count_until_they_are_handled(cells: Cells) -> None:
    early, order = [], Order()

    def park(request: Request) -> HandlerResult:
        early.append(request)
        return EARLY

    flood(cells, "server", 300, topic="early", data=LARGE)
    flood(cells, "server", 1, origin="site-2", topic="do")
    server = cells.make("server", {"early": park, "do": order})
    wait_until(lambda: len(early) == ROOM + 1 and order.ids, LONG)
    assert in_hand(server) == ROOM + 1
    parking = Parking()
    done = 0
    while done < 300:
        wait_until(lambda: len(early) > done, LONG)  # noqa: B023
        early[done].reply_from(parking)
        done += 1
    # parked ones are no load: all of them have come
    wait_until(lambda: in_hand(server) == 300, LONG)
    for request in parking.parked:
        request.reply()
    await_empty(cells, server)
