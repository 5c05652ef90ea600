"""Cells under duplicate, lost and invalid messages, restarts, and loss of data in Redis."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from redflare_broker.cell.cell import LATER, Cell, HandlerResult, ReplyCode, Request
from redflare_broker.cell.direction import Direction
from redflare_broker.cell.outbox import OutboundMessage
from redflare_broker.embedded.server import EmbeddedServer
from redflare_broker.errors import Fenced, ServerError, Unavailable
from redflare_broker.keys import Keys
from redflare_broker.scripts.script import run_pipeline
from redflare_broker.transport.connection import Connection
from redflare_broker.transport.replies import Arg, RedisReply
from redflare_broker.wire.message_entry import REPLY, REQUEST, Envelope

from tests.support.cell.cells import Cells, Replies, cells_at, cells_on_fakeredis, threads_of
from tests.support.waiting import wait_until

BIG = np.arange(1000.0)


@pytest.fixture
def cells() -> Iterator[Cells]:
    with cells_on_fakeredis() as made:
        yield made


class Counting:
    """A handler that records its requests, and can reply later."""

    def __init__(self, later: bool = False) -> None:
        self.later = later
        self.requests: list[Request] = []

    def __call__(self, request: Request) -> HandlerResult:
        self.requests.append(request)
        return LATER if self.later else ("OK", {"count": len(self.requests)}, None)

    def wait(self, count: int) -> Request:
        wait_until(lambda: len(self.requests) >= count, what=f"{count} requests")
        return self.requests[-1]


def post(cells: Cells, to: str, **fields: Any) -> None:
    """Write an envelope into an inbox."""
    given = {"kind": REQUEST, "id": "r1", "attempt": 5, "channel": "c", "topic": "do", "origin": "site", **fields}
    cells.write(to, Envelope(**given).fields(), by=given["origin"])


class CheckingSite(Cell):
    """The site: it looks soon for what it has posted, and tells when its inbox was read to the end after that."""

    def __init__(self, cells: Cells, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], object]) -> None:
        """``meanwhile``: called during each look."""
        super().__init__(cells.server, "site", cells.settings)
        self.check_after = 0.05
        self.meanwhile = meanwhile
        self.checked, self.quiet = threading.Event(), threading.Event()
        monkeypatch.setattr("redflare_broker.cell.outgoing.run_pipeline", self._look)

    def _look(self, connection: Connection, commands: list[list[Arg]]) -> list[RedisReply]:
        self.meanwhile()
        self.checked.set()
        return run_pipeline(connection, commands)

    def on_quiet(self) -> None:
        super().on_quiet()
        if self.checked.is_set():
            self.quiet.set()


def read_to_the_end(cells: Cells, cell: Cell) -> None:
    """Wait until a cell has processed all messages so far, of each sender."""
    read: list[str] = []
    senders = [inbox.rpartition(":")[2] for inbox in cells.inboxes(cell.fqcn)]
    cell._incoming._registered["test", "mark"] = lambda request: read.append(request.origin)
    for number, sender in enumerate(senders):
        post(cells, cell.fqcn, kind="event", origin=sender, id=f"mark-{number}", channel="test", topic="mark")
    wait_until(lambda: sorted(read) == sorted(senders))


# -- twice -------------------------------------------------------------------------------------------------------------


def test_a_second_copy_of_a_request_in_progress_is_not_handled(cells: Cells) -> None:
    handler = Counting(later=True)
    server = cells.make("server", {"do": handler})
    for _ in range(3):
        post(cells, "server")
    read_to_the_end(cells, server)
    assert len(handler.requests) == 1
    wait_until(lambda: len(cells.entries("server")) == 1)
    handler.requests[0].reply()
    wait_until(lambda: not cells.entries("server"))
    assert len(cells.entries("site")) == 1


def test_the_newest_copy_of_a_request_replaces_the_older(cells: Cells) -> None:
    handler = Counting(later=True)
    server = cells.make("server", {"do": handler})
    post(cells, "server")
    handler.wait(1)
    first = cells.entries("server")[0]["entry"]
    post(cells, "server", attempt=6)
    read_to_the_end(cells, server)
    wait_until(lambda: [entry["entry"] for entry in cells.entries("server") if entry["topic"] == "do"] != [first])
    assert handler.requests[0].attempt == 6


def test_a_second_copy_of_an_answered_request_is_not_handled(cells: Cells) -> None:
    handler = Counting()
    server = cells.make("server", {"do": handler})
    post(cells, "server")
    handler.wait(1)
    post(cells, "server")
    post(cells, "server", attempt=4)
    read_to_the_end(cells, server)
    wait_until(lambda: not cells.entries("server"))
    assert len(handler.requests) == 1


def test_a_copy_that_arrives_while_the_reply_is_being_written_is_deleted_too(
    cells: Cells, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, answered = threading.Event(), Counting()
    server = cells.make("server", {"do": answered, "mark": lambda request: read.set()})
    exchange = server._outbox._exchange

    def exchange_late(*args: Any) -> Any:
        monkeypatch.setattr(server._outbox, "_exchange", exchange)
        post(cells, "server")
        post(cells, "server", id="r2", topic="mark")
        assert read.wait(5)
        return exchange(*args)

    monkeypatch.setattr(server._outbox, "_exchange", exchange_late)
    post(cells, "server")
    wait_until(lambda: read.is_set() and not cells.entries("server"))
    assert len(answered.requests) == 1


def test_a_later_attempt_of_an_answered_request_is_handled_again(cells: Cells) -> None:
    handler = Counting()
    cells.make("server", {"do": handler})
    post(cells, "server")
    handler.wait(1)
    post(cells, "server", attempt=6)
    handler.wait(2)


def test_a_request_of_the_same_id_that_is_asked_again_is_handled_again(cells: Cells) -> None:
    handler = Counting()
    cells.make("server", {"do": handler})
    first = cells.make("site")
    counts = [first.send_request("c", "do", "server", timeout=5, request_id="x").meta["count"] for _ in range(2)]
    second = cells.make("site")
    counts.append(second.send_request("c", "do", "server", timeout=5, request_id="x").meta["count"])
    assert counts == [1, 2, 3]


def test_of_answered_requests_those_answered_last_are_remembered(cells: Cells, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy comes soon after the first one: that of the newest is the one to expect."""
    monkeypatch.setattr("redflare_broker.cell.incoming._REMEMBERED", 3)
    handler = Counting()
    server = cells.make("server", {"do": handler})
    for number in (1, 2, 3, 4):
        post(cells, "server", id=f"r{number}")
        handler.wait(number)
    wait_until(lambda: not cells.entries("server"))
    post(cells, "server", id="r4")
    read_to_the_end(cells, server)
    assert len(handler.requests) == 4
    post(cells, "server", id="r1")
    assert handler.wait(5).id == "r1"


def test_a_request_that_is_answered_again_is_remembered_from_then_on(
    cells: Cells, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redflare_broker.cell.incoming._REMEMBERED", 2)
    handler = Counting()
    server = cells.make("server", {"do": handler})
    for number, (request_id, attempt) in enumerate([("r1", 5), ("r2", 5), ("r1", 6), ("r3", 5)], start=1):
        post(cells, "server", id=request_id, attempt=attempt)
        handler.wait(number)
        wait_until(lambda: not cells.entries("server"))
    post(cells, "server", id="r1", attempt=6)
    read_to_the_end(cells, server)
    assert len(handler.requests) == 4


def test_a_second_copy_of_an_event_is_not_handled(cells: Cells) -> None:
    handler = Counting()
    server = cells.make("server", {"do": handler})
    for _ in range(3):
        post(cells, "server", kind="event")
    read_to_the_end(cells, server)
    wait_until(lambda: not cells.entries("server"))
    assert len(handler.requests) == 1


def test_a_second_copy_of_a_reply_leaves_the_first_ones_payload_alone(cells: Cells) -> None:
    replies = Replies()
    cells.make("server", {"do": lambda request: ("OK", None, BIG)})
    site = cells.make("site")
    site.ask("c", "do", "server", on_reply=replies, request_id="x")
    wait_until(lambda: replies.all)
    reply = replies.all[0]
    blob = reply.encoded.blob
    post(cells, "site", kind=REPLY, origin="server", rc="OK", id="x", blob=blob, data=b"[]")
    read_to_the_end(cells, site)
    wait_until(lambda: not cells.entries("site"))
    assert len(cells.blobs()) == 8


def test_a_reply_to_a_predecessor_is_deleted_with_its_chunks(cells: Cells) -> None:
    handler = Counting(later=True)
    cells.make("server", {"do": handler})
    first = cells.make("site")
    first.ask("c", "do", "server", on_reply=Replies())
    request = handler.wait(1)
    first.stop()
    request.reply("OK", None, BIG)
    wait_until(lambda: cells.entries("site"))
    cells.make("site")
    wait_until(lambda: not cells.entries("site") and not cells.blobs())


# -- restarts ----------------------------------------------------------------------------------------------------------


def test_a_request_waits_for_its_target_to_start(cells: Cells) -> None:
    replies = Replies()
    cells.make("site").ask("c", "do", "server", on_reply=replies)
    wait_until(lambda: cells.entries("server"))
    cells.make("server", {"do": Counting()})
    wait_until(lambda: replies.all)
    assert replies.all[0].ok


def test_a_successor_handles_parked_requests(cells: Cells) -> None:
    replies, parked = Replies(), Counting(later=True)
    first = cells.make("server", {"do": parked})
    site = cells.make("site")
    for number in range(3):
        site.ask("c", "do", "server", {"number": number}, on_reply=replies)
    parked.wait(3)
    first.stop()
    handler = Counting()
    cells.make("server", {"do": handler})
    wait_until(lambda: len(replies.all) == 3)
    assert sorted(request.meta["number"] for request in handler.requests) == [0, 1, 2]
    wait_until(lambda: not cells.entries("server"))


def test_a_reply_of_a_replaced_cell_is_left_to_its_successor(cells: Cells) -> None:
    held: list[Request] = []

    def park(request: Request) -> HandlerResult:
        held.append(request)
        return LATER

    cells.make("server", {"get": park}, heartbeat_interval=5.0, heartbeat_ttl=20.0)
    pending = cells.make("site").ask("c", "get", "server", on_reply=lambda reply: None)
    wait_until(lambda: held)
    # the successor does not read yet, but holds the lease
    cells.redis("HSET", "ns:{server}:cell", "instance", "newer:1:ab", "epoch", 10**15)
    held[0].reply("OK")
    wait_until(lambda: not cells.entries("site"))
    assert [entry["id"] for entry in cells.entries("server")] == [pending.id]


def test_the_cell_that_started_last_holds_the_name(cells: Cells, caplog: pytest.LogCaptureFixture) -> None:
    old_handler, new_handler, replies = Counting(later=True), Counting(), Replies()
    fenced = threading.Event()
    old = cells.make("server", {"do": old_handler}, heartbeat_interval=60.0, heartbeat_ttl=120.0)
    old.on_fenced = fenced.set
    site = cells.make("site")
    site.ask("c", "do", "server", on_reply=replies)
    old_request = old_handler.wait(1)
    old.ask("c", "do", "nobody", on_reply=(mine := Replies()))
    new = cells.make("server", {"do": new_handler})
    assert new.epoch > old.epoch
    assert site.send_request("c", "do", "server", timeout=20).meta["count"] >= 1
    assert fenced.wait(20), "its own read reports it, long before its heartbeat"
    assert old.fenced
    assert len(old_handler.requests) == 1
    wait_until(lambda: mine.all)
    assert [reply.rc for reply in mine.all] == [ReplyCode.ABORTED]
    wait_until(lambda: replies.all)
    old_request.reply("LATE")
    with pytest.raises(Fenced, match="a newer instance has taken over this cell"):
        old.fire_and_forget("c", "do", "site")
    old.stop()
    assert "a newer instance has taken over" in caplog.text
    read_to_the_end(cells, site)
    assert [reply.rc for reply in replies.all] == ["OK"]
    assert cells.redis("HGET", "ns:{server}:cell", "closed") == b"0"


def test_a_cell_that_redis_has_as_an_older_one_s_takes_itself_back(cells: Cells) -> None:
    """A failover has rolled back its hello: the older instance is gone, and this one is not fenced by it."""
    handler = Counting()
    server = cells.make("server", {"do": handler})
    cells.redis("HSET", "ns:{server}:cell", "instance", "h:1:older", "epoch", server.epoch - 1)
    wait_until(lambda: cells.redis("HGET", "ns:{server}:cell", "instance") == server.instance.encode())
    post(cells, "server")
    handler.wait(1)
    assert not server.fenced
    assert cells.redis("HGET", "ns:{server}:cell", "epoch") == b"%d" % server.epoch


def test_an_entry_is_not_handled_while_an_older_instance_has_the_cell(cells: Cells) -> None:
    server = cells.make("server")
    assert server.on_holder(server.instance.encode(), b"%d" % server.epoch) is True
    for instance, epoch in ((b"h:1:older", b"1"), (None, None), (b"h:1:odd", b"not a number")):
        assert server.on_holder(instance, epoch) is False
    with pytest.raises(Fenced):
        server.on_holder(b"h:1:newer", b"%d" % (server.epoch + 1))


def test_an_idle_cell_learns_from_its_heartbeat_that_it_was_replaced(cells: Cells) -> None:
    fenced = threading.Event()
    old = cells.make("server")
    old.on_fenced = fenced.set
    cells.make("server")
    assert fenced.wait(5)
    wait_until(lambda: threads_of("server").count("redflare-inbox-server") == 1)


# -- losses ------------------------------------------------------------------------------------------------------------


def test_a_cell_reports_that_heartbeats_get_through_again(cells: Cells) -> None:
    again = threading.Event()
    server = cells.make("server")
    server.on_reconnect = again.set
    wait_until(lambda: cells.redis("EXISTS", "ns:{server}:heartbeat"))
    assert not again.is_set()
    server.on_silence(Unavailable("a failover"))
    assert again.wait(5)


def test_a_cell_reads_anew_when_heartbeats_get_through_again(cells: Cells, monkeypatch: pytest.MonkeyPatch) -> None:
    """What broke the heartbeat's connection may have broken that of the blocked read, without an error."""
    handler, opened, connect = Counting(), list[str](), cells.server.connection
    server = cells.make("server", {"do": handler})
    wait_until(lambda: cells.redis("EXISTS", "ns:{server}:heartbeat"))

    def counted(key: str) -> Connection:
        opened.append(key)
        return connect(key)

    monkeypatch.setattr(cells.server, "connection", counted)
    server.on_silence(Unavailable("a failover"))
    wait_until(lambda: opened == ["ns:{server}:cell"])
    post(cells, "server")
    handler.wait(1)


def test_a_new_connection_reads_from_the_beginning(cells: Cells) -> None:
    """It may be to another Redis, whose clock gave the entries earlier ids."""
    handler = Counting()
    server = cells.make("server", {"do": handler})
    post(cells, "server")
    handler.wait(1)
    wait_until(lambda: not cells.entries("server"))
    cells.redis("DEL", "ns:{server}:inbox:site")
    request = Envelope(kind=REQUEST, id="r2", attempt=5, channel="c", topic="do", origin="site")
    cells.redis("XADD", "ns:{server}:inbox:site", "1-1", *request.fields())
    server.on_silence(Unavailable("a failover"))
    assert handler.wait(2).id == "r2"


def test_cells_resume_after_redis_lost_everything(cells: Cells) -> None:
    parked, replies, lost = Counting(later=True), Replies(), threading.Event()
    server = cells.make("server", {"do": parked})
    site = cells.make("site")
    server.on_loss = lost.set
    site.ask("c", "do", "server", None, BIG, on_reply=replies)
    request = parked.wait(1)
    epochs = server.epoch, site.epoch
    cells.redis("FLUSHALL")
    assert lost.wait(5)
    wait_until(lambda: site.losses and server.losses)
    wait_until(lambda: request.attempt > site.epoch, what="the request, posted again,")
    assert (server.epoch, site.epoch) == epochs
    assert len(parked.requests) == 1
    request.reply("OK", None, BIG)
    wait_until(lambda: replies.all)
    np.testing.assert_equal(replies.all[0].data, BIG)
    wait_until(lambda: not cells.entries("server") and not cells.entries("site"))


def test_a_reply_that_redis_lost_is_sent_again(cells: Cells) -> None:
    handler, replies = Counting(), Replies()
    cells.make("server", {"do": handler})
    site = cells.make("site")
    assert site.send_request("c", "do", "server", timeout=5).ok
    pending = site.ask("c", "do", "nobody", on_reply=replies)
    wait_until(lambda: pending.entry_id)
    # as if the reply had been lost: the request counts as answered, and its sender still waits
    pending.keys, pending.inbox = Keys("ns").cell("server"), "ns:{server}:inbox:site"
    site.resync()
    wait_until(lambda: replies.all)
    assert replies.all[0].meta == {"count": 2}


def test_the_payload_of_several_requests_goes_with_the_last_reply(cells: Cells) -> None:
    """Its sender made the chunks, and need not cancel anything."""
    replies: dict[str, Any] = {}
    parked = {site: Counting(later=True) for site in ("a", "b")}
    for site, handler in parked.items():
        cells.make(site, {"do": handler})
    cells.make("server").ask_many("c", "do", {"a": ("a", None), "b": ("b", None)}, BIG, on_reply=replies.__setitem__)
    requests = [handler.wait(1) for handler in parked.values()]
    requests[0].reply()
    wait_until(lambda: len(replies) == 1)
    assert cells.blobs()
    np.testing.assert_equal(requests[1].data, BIG)
    requests[1].reply()
    wait_until(lambda: len(replies) == 2)
    wait_until(lambda: not cells.blobs())


def test_a_request_that_is_cancelled_while_its_payload_is_stored_leaves_nothing(
    cells: Cells, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, cancelled, store = threading.Event(), threading.Event(), Direction.store

    def slow(self: Direction, *args: Any, **options: Any) -> Any:
        payload = store(self, *args, **options)
        stored.set()
        assert cancelled.wait(10)
        return payload

    monkeypatch.setattr(Direction, "store", slow)
    pending = cells.make("site").ask("c", "do", "server", None, BIG, on_reply=Replies())
    assert stored.wait(10)
    assert cells.blobs()
    pending.cancel()
    cancelled.set()
    wait_until(lambda: not cells.blobs())
    assert cells.entries("server") == []


def test_a_reply_to_an_earlier_attempt_takes_the_later_request_back(cells: Cells) -> None:
    replies = Replies()
    site = cells.make("site")
    pending = site.ask("c", "do", "server", on_reply=replies)
    first = wait_until(lambda: pending.entry_id)
    attempt = pending.attempt
    site.resync()
    wait_until(lambda: pending.entry_id not in ("", first))
    assert len(cells.entries("server")) == 2
    post(cells, "site", kind=REPLY, id=pending.id, attempt=attempt, origin="server", rc="OK")
    wait_until(lambda: replies.all)
    wait_until(lambda: [entry["entry"] for entry in cells.entries("server")] == [first])


def test_an_earlier_attempt_whose_payload_is_gone_does_not_cause_a_further_one(cells: Cells) -> None:
    site, replies = cells.make("site"), Replies()
    pending = site.ask("c", "do", "server", None, BIG, on_reply=replies)
    first = wait_until(lambda: pending.entry_id)
    earlier = pending.attempt
    site.resync()
    wait_until(lambda: pending.entry_id not in ("", first))
    later = pending.attempt
    post(cells, "site", kind=REPLY, id=pending.id, attempt=earlier, origin="server", rc=ReplyCode.BLOB_MISSING)
    read_to_the_end(cells, site)
    assert (pending.attempt, replies.all) == (later, []), "the later one is on its way, with chunks of its own"


def test_a_payload_that_is_not_found_again_and_again_is_not_sent_for_ever(cells: Cells) -> None:
    handler = Counting(later=True)
    cells.make("server", {"do": handler})
    replies = Replies()
    cells.make("site").ask("c", "do", "server", None, BIG, on_reply=replies)
    for attempt in (1, 2, 3, 4):
        handler.wait(attempt).reply(ReplyCode.BLOB_MISSING)
    wait_until(lambda: replies.all)
    assert replies.all[0].rc == ReplyCode.BLOB_MISSING


def test_a_request_that_vanished_from_an_inbox_is_posted_again(cells: Cells, caplog: pytest.LogCaptureFixture) -> None:
    replies = Replies()
    site = Cell(cells.server, "site", cells.settings)
    site.check_after = 0.05
    with site:
        pending = site.ask("c", "do", "server", on_reply=replies)
        wait_until(lambda: pending.entry_id)
        cells.redis("XDEL", "ns:{server}:inbox:site", pending.entry_id)
        wait_until(lambda: cells.entries("server"))
        assert "Redis lost 1 requests; posting them again" in caplog.text
        handler = Counting()
        cells.make("server", {"do": handler})
        wait_until(lambda: replies.all)
    assert handler.requests[0].attempt > site.epoch


def test_a_request_that_is_posted_again_while_it_is_looked_for_is_not_lost(
    cells: Cells, monkeypatch: pytest.MonkeyPatch
) -> None:
    def posted_meanwhile() -> None:
        site.check_after = 1000.0
        site.resync()
        wait_until(lambda: pending.entry_id not in ("", first))
        attempts.append(pending.attempt)

    attempts: list[int] = []
    site = CheckingSite(cells, monkeypatch, posted_meanwhile)
    with site:
        pending = site.ask("c", "do", "server", on_reply=Replies())
        first = wait_until(lambda: pending.entry_id)
        cells.redis("XDEL", "ns:{server}:inbox:site", first)
        assert site.quiet.wait(10)
        assert [pending.attempt] == attempts


def test_a_request_whose_reply_is_read_after_its_entry_was_missed_is_not_posted_again(
    cells: Cells, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answered_meanwhile() -> None:
        site.check_after = 1000.0
        post(cells, "site", kind=REPLY, id=pending.id, attempt=pending.attempt, origin="server", rc="OK")
        cells.redis("XDEL", "ns:{server}:inbox:site", pending.entry_id)

    replies = Replies()
    site = CheckingSite(cells, monkeypatch, answered_meanwhile)
    with site:
        pending = site.ask("c", "do", "server", on_reply=replies)
        attempt = pending.attempt
        assert site.quiet.wait(10)
        assert (len(replies.all), pending.attempt) == (1, attempt)


def test_requests_that_cannot_be_looked_for_do_not_disturb_the_reading(
    cells: Cells, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    looks: list[None] = []

    def refused() -> None:
        looks.append(None)
        raise ServerError("NOPERM")

    handler, replies = Counting(later=True), Replies()
    cells.make("server", {"do": handler})
    site = CheckingSite(cells, monkeypatch, refused)
    with site:
        site.ask("c", "do", "server", on_reply=replies)
        wait_until(lambda: len(looks) >= 2)
        handler.wait(1).reply()
        wait_until(lambda: replies.all)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_parked_request_is_not_posted_again(cells: Cells) -> None:
    handler, replies = Counting(later=True), Replies()
    cells.make("server", {"do": handler})
    site = Cell(cells.server, "site", cells.settings)
    site.check_after = 0.02
    with site:
        pending = site.ask("c", "do", "server", on_reply=replies)
        handler.wait(1)
        checked = site._outgoing._checked
        wait_until(lambda: site._outgoing._checked > checked + 0.2)
        assert pending.attempt == site.epoch
        handler.requests[0].reply()
        wait_until(lambda: replies.all)


def test_a_request_that_is_cancelled_while_it_is_being_written_is_taken_back(
    cells: Cells, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = cells.make("site")
    writing, cancelled, exchange = threading.Event(), threading.Event(), site._outbox._exchange

    def exchange_late(*args: Any) -> Any:
        writing.set()
        assert cancelled.wait(10)
        return exchange(*args)

    monkeypatch.setattr(site._outbox, "_exchange", exchange_late)
    writer = threading.Thread(target=site.fire_and_forget, args=("c", "do", "other"))
    writer.start()
    assert writing.wait(10)
    site.ask("c", "do", "server", on_reply=Replies()).cancel()
    cancelled.set()
    writer.join(10)
    assert cells.redis("EXISTS", "ns:{server}:inbox:site") == 1, "it was written"
    assert cells.entries("server") == []


def test_a_request_that_redis_refuses_for_now_is_written_later() -> None:
    with EmbeddedServer() as embedded, cells_at(embedded.url, "ns") as cells:
        handler, replies = Counting(), Replies()
        cells.make("server", {"do": handler})
        site = cells.make("site")
        cells.redis("CONFIG", "SET", "maxmemory", 1)
        site.ask("c", "do", "server", on_reply=replies)
        cells.redis("CONFIG", "SET", "maxmemory", 0)
        wait_until(lambda: replies.all)
        assert (replies.all[0].rc, len(handler.requests)) == ("OK", 1)


def test_a_message_that_redis_refuses_ends_its_request(cells: Cells) -> None:
    cells.redis("SET", "ns:{server}:inbox:site", "no stream", "PX", 9000)
    reply = cells.make("site").send_request("c", "do", "server", timeout=5)
    assert reply.rc == ReplyCode.COMM_ERROR
    assert "WRONGTYPE" in reply.error


def test_a_refused_reply_is_sent_again_when_it_is_asked_for(cells: Cells, caplog: pytest.LogCaptureFixture) -> None:
    handler = Counting()
    cells.make("server", {"do": handler})
    cells.redis("SET", "ns:{site}:inbox:server", "no stream", "PX", 9000)
    post(cells, "server")
    wait_until(lambda: "Redis refused the reply" in caplog.text)
    cells.redis("DEL", "ns:{site}:inbox:server")
    post(cells, "server")
    handler.wait(2)
    wait_until(lambda: cells.entries("site"))


def test_a_writer_that_is_interrupted_leaves_its_messages_to_another(cells: Cells) -> None:
    site = cells.make("site")
    deliver = site._outbox._deliver

    def interrupted(batch: list[OutboundMessage]) -> list[OutboundMessage]:
        site._outbox._deliver = deliver  # type: ignore[method-assign]
        raise KeyboardInterrupt

    site._outbox._deliver = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        site.fire_and_forget("c", "do", "server", {"number": 1})
    site.fire_and_forget("c", "do", "server", {"number": 2})
    wait_until(lambda: [entry["meta"] for entry in cells.entries("server")] == ['{"number":1}', '{"number":2}'])


def test_messages_that_wait_for_redis_keep_their_order(cells: Cells, monkeypatch: pytest.MonkeyPatch) -> None:
    site = cells.make("site")

    def away(*args: Any) -> Any:
        monkeypatch.undo()
        site.fire_and_forget("c", "do", "server", {"number": 2})
        raise Unavailable("away")

    monkeypatch.setattr("redflare_broker.cell.outbox.run_pipeline", away)
    site.fire_and_forget("c", "do", "server", {"number": 1})
    wait_until(lambda: [entry["meta"] for entry in cells.entries("server")] == ['{"number":1}', '{"number":2}'])


def test_after_a_failure_scripts_are_sent_in_full_again(cells: Cells, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be another Redis: one that knows only some of them would run a part of the messages before the others."""
    verbs: list[Arg] = []

    def recorded(connection: Connection, commands: list[list[Arg]]) -> list[RedisReply]:
        verbs.append(commands[0][0])
        if len(verbs) == 2:
            raise Unavailable("away")
        return run_pipeline(connection, commands)

    site = cells.make("site")
    monkeypatch.setattr("redflare_broker.cell.outbox.run_pipeline", recorded)
    for _ in range(2):
        site.fire_and_forget("c", "do", "server")
    wait_until(lambda: len(cells.entries("server")) == 2)
    assert verbs == ["EVAL", "EVALSHA", "EVAL"]


# -- entries that are none ---------------------------------------------------------------------------------------------

GOOD: dict[str, Any] = {"v": 1, "kind": "request", "id": "r", "attempt": 1, "channel": "c", "topic": "do"}
GOOD |= {"origin": "site", "meta": "{}", "data": "null"}
BLOB = '{"prefix":"%s","chunk":10,"sizes":[10]}'


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"v": 2}, "field v: must be 1, but is b'2'"),
        ({"kind": "order"}, "field kind: must be request, reply or event, but is b'order'"),
        ({"id": None}, "field id is missing"),
        ({"id": "a b"}, "field id: b'a b' is not legal"),
        ({"attempt": "one"}, "field attempt: must be an integer, but is b'one'"),
        ({"attempt": "1" * 16}, "field attempt: must be an integer"),
        ({"origin": "a{b}"}, "field origin: b'a{b}' is not legal"),
        ({"origin": "a." * 250 + "a"}, "field origin: 501 bytes, at most 500 are read"),
        ({"origin": "a" * 201}, "is not legal"),
        ({"topic": "\xff"}, "field topic"),
        ({"topic": "t" * 201}, "field topic"),
        ({"kind": "reply"}, "field rc: must have 1 to 200 bytes"),
        ({"meta": "[1]"}, "meta: must be an object, but is b'[1]'"),
        ({"meta": "{"}, "meta: not JSON"),
        ({"blobs": BLOB % "ns:{server}:cell"}, "field blobs: prefix 'ns:{server}:cell' is not that of a payload"),
        ({"blobs": BLOB % "other:blob:{x}"}, "field blobs: prefix 'other:blob:{x}' is not under ns:"),
        ({"blobs": "{}"}, "field blobs: must have prefix, chunk and sizes"),
        ({"blobs": BLOB % "ns:blob:{x}", "b0": "x"}, "field blobs: is there beside b0"),
    ],
    ids=str,
)
def test_an_invalid_entry_is_buried_with_the_reason(cells: Cells, fields: dict[str, Any], reason: str) -> None:
    handler = Counting()
    cells.make("server", {"do": handler})
    given = {name: value for name, value in {**GOOD, **fields}.items() if value is not None}
    cells.write("server", [part for pair in given.items() for part in pair], by="site")
    post(cells, "server", id="good")
    assert handler.wait(1).id == "good"
    wait_until(lambda: cells.dead("server"))
    assert reason in cells.dead("server")[0]["reason"]
    wait_until(lambda: not cells.entries("server"))


def test_a_request_whose_meta_cannot_be_read_is_answered_bad_request_data(cells: Cells) -> None:
    cells.make("server", {"do": Counting()})
    post(cells, "server", meta=b"[]")
    wait_until(lambda: cells.entries("site"))
    assert cells.entries("site")[0]["rc"] == ReplyCode.BAD_REQUEST_DATA


def test_data_that_cannot_be_read_is_an_exception_of_the_handler(cells: Cells) -> None:
    cells.make("server", {"do": lambda request: ("OK", None, request.data)})
    post(cells, "server", data=b'{"$nd": [0, "float32", [1]]}')
    wait_until(lambda: cells.entries("site"))
    assert "DecodeError" in cells.entries("site")[0]["meta"]
