"""How a cell gets to know who sends to it, and that nobody can send in the name of another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from redflare_broker.cell.cell import Cell
from redflare_broker.keys import Keys
from redflare_broker.scripts.cell_scripts import POST, sender_values
from redflare_broker.scripts.script import run_pipeline
from redflare_broker.wire.message_entry import REQUEST, Envelope

from tests.support.cell.cells import Cells, Parking, Replies, cells_on_fakeredis
from tests.support.waiting import wait_until

#: A cell whose heartbeat tells it nothing during a test, nor a check of its requests.
SLOW: dict[str, Any] = {"heartbeat_interval": 600.0, "heartbeat_ttl": 1200.0}


@pytest.fixture
def cells() -> Iterator[Cells]:
    with cells_on_fakeredis() as made:
        yield made


def request(origin: str, request_id: str = "r1") -> list[Any]:
    return Envelope(kind=REQUEST, id=request_id, attempt=1, channel="c", topic="do", origin=origin).fields()


def listens(cells: Cells, fqcn: str) -> bool:
    """Whether a cell hears rings, and has seen that there is nobody."""
    return cells.redis("PUBSUB", "NUMSUB", f"ns:{{{fqcn}}}:doorbell") == [f"ns:{{{fqcn}}}:doorbell".encode(), 1]


def is_blocked(cell: Cell) -> bool:
    return cell._inbox._blocked


def test_a_sender_that_was_never_there_before_rings(cells: Cells) -> None:
    cell = cells.make("server", {"do": lambda request: None}, **SLOW)
    wait_until(lambda: listens(cells, "server") and is_blocked(cell))
    site = cells.make("site-1.job", **SLOW)
    assert site.send_request("c", "do", "server", timeout=20).ok
    assert cells.redis("SMEMBERS", "ns:{server}:senders") == [b"site-1"]
    assert cells.redis("SMEMBERS", "ns:{site-1.job}:senders") == [b"server"]


def test_a_ring_that_was_missed_is_made_good_by_a_heartbeat(cells: Cells) -> None:
    handler = Parking()
    cell = cells.make("server", {"do": handler})
    wait_until(lambda: is_blocked(cell))
    cells.redis("XADD", "ns:{server}:inbox:site-1", "*", *request("site-1"))
    cells.redis("PEXPIRE", "ns:{server}:inbox:site-1", 9000)
    cells.redis("SADD", "ns:{server}:senders", "site-1")
    handler.wait()


def test_a_set_of_senders_that_was_lost_is_made_good_by_the_senders_check(cells: Cells) -> None:
    replies, handler = Replies(), Parking()
    site = Cell(cells.server, "site-1", cells.settings)
    site.check_after = 0.2
    with site:
        site.ask("c", "do", "server", on_reply=replies)
        wait_until(lambda: cells.entries("server"))
        cells.redis("DEL", "ns:{server}:senders")
        cells.make("server", {"do": handler}, **SLOW)
        handler.wait().reply()
        wait_until(lambda: replies.all)


def test_the_inboxes_of_peers_are_read_without_a_ring(cells: Cells) -> None:
    handler = Parking()
    cell = Cell(cells.server, "server", cells.settings, peers=["site-1"])
    cell.register_request_cb("c", "do", handler)
    with cell:
        wait_until(lambda: is_blocked(cell))
        cells.redis("XADD", "ns:{server}:inbox:site-1", "*", *request("site-1.job"))
        cells.redis("PEXPIRE", "ns:{server}:inbox:site-1", 9000)
        assert handler.wait().origin == "site-1.job"


@pytest.mark.parametrize("claimed", ["site-1", "site-1.job", "site-22", "server"])
def test_a_message_in_the_name_of_another_is_buried(cells: Cells, claimed: str) -> None:
    handler = Parking()
    cell = cells.make("server", {"do": handler})
    cells.write("server", request(claimed), by="site-2")
    cells.write("server", request("site-2.job"), by="site-2")
    assert handler.wait().origin == "site-2.job"
    wait_until(lambda: cells.dead("server"))
    reason = cells.dead("server")[0]["reason"]
    assert f"site-2 has written it, in the name of {claimed}" in reason
    assert cell.faults.totals == {"sent in the name of another": 1}
    assert len(handler.parked) == 1


def test_a_request_is_not_a_copy_of_another_senders_of_its_id(cells: Cells) -> None:
    handler = Parking()
    cells.make("server", {"do": handler})
    for site in ("site-1", "site-2"):
        cells.write("server", request(site, "same"), by=site)
    handler.wait(2)
    for parked in handler.parked:
        parked.reply("OK", {"to": parked.origin})
    wait_until(lambda: cells.entries("site-1") and cells.entries("site-2"))
    for site in ("site-1", "site-2"):
        assert cells.entries(site)[0]["meta"] == f'{{"to":"{site}"}}'
    wait_until(lambda: not cells.entries("server"))


def test_what_was_read_before_a_ring_is_not_read_again(cells: Cells) -> None:
    handler = Parking()
    cell = cells.make("server", {"do": handler}, **SLOW)
    seen: list[str] = []
    on_entry = cell.on_entry

    def counted(inbox: str, owner: str, entry_id: str, fields: list[bytes]) -> str:
        seen.append(owner)
        return on_entry(inbox, owner, entry_id, fields)

    cell.on_entry = counted  # type: ignore[method-assign]
    for number, site in enumerate(("site-1", "site-2", "site-3"), 1):
        wait_until(lambda: listens(cells, "server") and is_blocked(cell))
        cells.write("server", request(site), by=site)
        handler.wait(number)
    assert seen == ["site-1", "site-2", "site-3"]


def test_a_sender_may_leave_the_life_of_the_set_to_its_cell(cells: Cells) -> None:

    keys = Keys("ns").cell("server")
    with cells.server.borrow("any") as connection:
        for may_keep, expected in ((False, -1), (True, 5000)):
            values = sender_values(keys, "site-1", "PUBLISH", 5000, may_keep=may_keep)
            run_pipeline(connection, [POST.command(values, request("site-1"))])
            left = connection.call("PTTL", keys.senders)
            assert isinstance(left, int)
            assert expected - 4000 < left <= expected
