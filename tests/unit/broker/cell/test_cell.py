"""Messages between cells: requests, replies, events."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from redflare_broker.cell.cell import Cell, HandlerResult, ReplyCode, Request
from redflare_broker.errors import BlobMissing, ConfigError, EncodeError
from redflare_broker.payload.encoded_payload import EncodedPayload, encode_payload
from redflare_broker.transport.replies import Arg

from tests.support.cell.cells import Cells, Parking, Replies, cells_on_fakeredis, threads_of
from tests.support.waiting import wait_until

BIG = np.arange(1000.0)


@pytest.fixture
def cells() -> Iterator[Cells]:
    with cells_on_fakeredis() as made:
        yield made


def echo(request: Request) -> HandlerResult:
    return "OK", request.meta, request.data


# -- requests and replies ----------------------------------------------------------------------------------------------


def test_a_reply_has_return_code_meta_data_and_origin(cells: Cells) -> None:
    cells.make("server", {"add": lambda request: ("DONE", {"sum": sum(request.data)}, {"from": request.origin})})
    reply = cells.make("site").send_request("c", "add", "server", None, [1, 2, 3], timeout=5)
    assert (reply.rc, reply.meta, reply.data, reply.origin) == ("DONE", {"sum": 6}, {"from": "site"}, "server")


def test_a_handler_that_returns_nothing_answers_ok(cells: Cells) -> None:
    cells.make("server", {"note": lambda request: None})
    reply = cells.make("site").send_request("c", "note", "server", timeout=5)
    assert (reply.ok, reply.meta, reply.data) == (True, {}, None)


@pytest.mark.parametrize("tree", [None, {}, [1, "a", None], {"w": np.arange(3)}, {"w": BIG}, b"bytes"], ids=repr)
def test_any_tree_travels_both_ways_and_leaves_nothing_behind(cells: Cells, tree: Any) -> None:
    cells.make("server", {"echo": echo})
    got = cells.make("site").send_request("c", "echo", "server", {"round": 1}, tree, timeout=5)
    np.testing.assert_equal(got.data, tree)
    assert got.meta == {"round": 1}
    wait_until(lambda: not cells.entries("server") and not cells.entries("site") and not cells.blobs())


def test_small_arrays_may_change_as_soon_as_they_were_sent(cells: Cells) -> None:
    parking = Parking()
    cells.make("server", {"park": parking})
    array = np.zeros(3)
    cells.make("site").ask("c", "park", "server", None, array, on_reply=Replies())
    array[:] = 7
    np.testing.assert_equal(parking.wait().data, np.zeros(3))


def test_a_cell_can_ask_itself(cells: Cells) -> None:
    cell = cells.make("server", {"echo": echo})
    assert cell.send_request("c", "echo", "server", None, 5, timeout=5).data == 5


def test_a_topic_without_a_handler_is_answered_with_the_names(cells: Cells, caplog: pytest.LogCaptureFixture) -> None:
    cells.make("server", {"echo": echo})
    reply = cells.make("site").send_request("c", "ecko", "server", timeout=5)
    assert reply.rc == ReplyCode.TOPIC_UNKNOWN
    assert "cell server has no handler for topic 'ecko' of channel 'c'" in reply.error
    assert "the request is from site" in caplog.text


def test_the_payload_of_a_request_that_nobody_handles_is_deleted(cells: Cells) -> None:
    cells.make("server")
    site = cells.make("site")
    assert site.send_request("c", "nonsense", "server", data=BIG, timeout=5).rc == ReplyCode.TOPIC_UNKNOWN
    site.fire_and_forget("c", "nonsense", "server", data=BIG)
    wait_until(lambda: not cells.blobs() and not cells.entries("server"))


def test_the_payload_of_a_request_that_is_dropped_is_deleted(cells: Cells) -> None:
    parking = Parking()
    cells.make("server", {"park": parking})
    cells.make("site").fire_and_forget("c", "park", "server", data=BIG)
    parking.wait().drop()
    wait_until(lambda: not cells.blobs() and not cells.entries("server"))


def test_a_handler_of_any_topic_gets_topics_without_a_handler(cells: Cells) -> None:
    cells.make("server", {"echo": echo, "*": lambda request: (request.topic, None, None)})
    site = cells.make("site")
    assert site.send_request("c", "else", "server", timeout=5).rc == "else"
    assert site.send_request("c", "echo", "server", timeout=5).rc == "OK"


def test_an_exception_of_a_handler_is_logged_and_answered(cells: Cells, caplog: pytest.LogCaptureFixture) -> None:
    cells.make("server", {"fail": lambda request: 1 / 0})
    reply = cells.make("site").send_request("c", "fail", "server", timeout=5)
    assert (reply.rc, reply.error) == (ReplyCode.HANDLER_EXCEPTION, "ZeroDivisionError: division by zero")
    assert "Traceback" in caplog.text


def test_an_answer_that_cannot_be_sent_is_an_exception_of_its_handler(cells: Cells) -> None:
    cells.make("server", {"fail": lambda request: ("OK", None, object()), "odd": lambda request: "OK"})
    site = cells.make("site")
    reply = site.send_request("c", "fail", "server", timeout=5)
    assert (reply.rc, "EncodeError" in reply.error) == (ReplyCode.HANDLER_EXCEPTION, True)
    assert site.send_request("c", "odd", "server", timeout=5).rc == ReplyCode.HANDLER_EXCEPTION


def test_a_second_handler_is_refused(cells: Cells) -> None:
    cell = cells.make("server", {"echo": echo})
    with pytest.raises(ValueError, match="channel 'c' has a handler for topic 'echo' already"):
        cell.register_request_cb("c", "echo", lambda request: None)
    with pytest.raises(ConfigError, match="topic must be"):
        cell.register_request_cb("c", "a b", echo)


@pytest.mark.parametrize(
    "meta", [{"a": np.arange(3)}, {"a": b"x"}, {"a": object()}, {1: 2}], ids=["array", "bytes", "object", "key"]
)
def test_meta_that_is_not_json_is_refused_before_anything_is_sent(cells: Cells, meta: Any) -> None:
    site = cells.make("site")
    with pytest.raises(EncodeError, match="meta"):
        site.send_request("c", "echo", "server", meta, timeout=5)
    assert cells.entries("server") == []
    assert "0 waiting" in repr(site)


# -- later -------------------------------------------------------------------------------------------------------------


def test_a_parked_request_is_answered_once_from_any_thread(cells: Cells) -> None:
    parking, replies = Parking(), Replies()
    cells.make("server", {"park": parking})
    cells.make("site").ask("c", "park", "server", on_reply=replies)
    request = parking.wait()
    assert [entry["topic"] for entry in cells.entries("server")] == ["park"]
    threads = [threading.Thread(target=request.reply, args=(f"rc-{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    wait_until(lambda: replies.all)
    for thread in threads:
        thread.join()
    request.drop()
    wait_until(lambda: not cells.entries("server") and not cells.entries("site"))
    assert len(replies.all) == 1


def test_a_thousand_parked_requests_need_no_thread(cells: Cells) -> None:
    parking, replies = Parking(), Replies()
    cells.make("server", {"park": parking})
    site = cells.make("site")
    for _ in range(1000):
        site.ask("c", "park", "server", on_reply=replies)
    parking.wait(1000)
    assert len(threads_of("server")) < 20
    for request in parking.parked:
        request.reply()
    wait_until(lambda: len(replies.all) == 1000)


def test_commands_run_before_the_reply_is_posted(cells: Cells) -> None:
    parking, replies = Parking(), Replies()
    cells.make("server", {"park": parking})
    cells.make("site").ask("c", "park", "server", on_reply=replies)
    script = "return redis.call('SET', KEYS[1], redis.call('EXISTS', KEYS[2]), 'PX', 9000)"
    seen, second, inbox = "ns:{server}:seen", "ns:{server}:second", "ns:{site}:inbox:server"
    assert cells.redis("EXISTS", inbox) == 0
    commands: list[list[Arg]] = [["EVAL", script, 2, seen, inbox], ["SET", second, "1", "PX", 9000]]
    parking.wait().reply(with_commands=commands)
    wait_until(lambda: replies.all)
    assert (cells.redis("GET", seen), cells.redis("GET", second)) == (b"0", b"1")


def test_a_refused_command_is_logged_and_the_reply_is_sent(cells: Cells, caplog: pytest.LogCaptureFixture) -> None:
    parking, replies = Parking(), Replies()
    cells.make("server", {"park": parking})
    cells.make("site").ask("c", "park", "server", on_reply=replies)
    parking.wait().reply(with_commands=[["HGET", "ns:{server}:inbox:site", "x"]])
    wait_until(lambda: replies.all)
    assert "WRONGTYPE" in caplog.text


# -- ends of waiting ---------------------------------------------------------------------------------------------------


def test_a_request_without_a_reply_times_out_and_is_taken_back(cells: Cells) -> None:
    reply = cells.make("site").send_request("c", "echo", "server", timeout=0.05)
    assert (reply.rc, reply.error) == (ReplyCode.TIMEOUT, "no reply within 0.05 s")
    wait_until(lambda: not cells.entries("server"))


def test_a_late_reply_is_deleted_with_its_chunks(cells: Cells) -> None:
    parking = Parking()
    cells.make("server", {"park": parking})
    site = cells.make("site")
    assert site.send_request("c", "park", "server", timeout=0.1).rc == ReplyCode.TIMEOUT
    parking.wait().reply("OK", None, BIG)
    wait_until(lambda: not cells.entries("site") and not cells.blobs())


def test_a_nudge_asks_whether_to_give_up(cells: Cells) -> None:
    parking = Parking()
    cells.make("server", {"park": parking})
    site = cells.make("site")
    reasons = [""]
    with waiting(lambda: site.send_request("c", "park", "server", timeout=60, give_up=lambda: reasons[0])) as got:
        parking.wait()
        site.nudge()
        assert not got
        reasons[0] = "the job is over"
        site.nudge()
        wait_until(lambda: got)
    assert (got[0].rc, got[0].error) == (ReplyCode.ABORTED, "the job is over")


def test_abort_ends_every_wait_and_later_requests_work(cells: Cells) -> None:
    parking = Parking()
    cells.make("server", {"park": parking, "echo": echo})
    site = cells.make("site")
    with waiting(lambda: site.send_request("c", "park", "server", timeout=None)) as got:
        parking.wait()
        site.abort("enough")
        wait_until(lambda: got)
    assert (got[0].rc, got[0].error) == (ReplyCode.ABORTED, "enough")
    assert site.send_request("c", "echo", "server", timeout=5).ok


def test_on_reply_is_not_called_for_a_cancelled_request(cells: Cells) -> None:
    parking, replies = Parking(), Replies()
    cells.make("server", {"park": parking, "echo": echo})
    site = cells.make("site")
    pending = site.ask("c", "park", "server", on_reply=replies)
    request = parking.wait()
    pending.cancel()
    request.reply()
    assert site.send_request("c", "echo", "server", timeout=5).ok
    assert replies.all == []


def test_an_exception_of_on_reply_is_logged(cells: Cells, caplog: pytest.LogCaptureFixture) -> None:
    cells.make("server", {"echo": echo})
    site = cells.make("site")
    site.ask("c", "echo", "server", on_reply=lambda reply: 1 / 0)
    wait_until(lambda: "its on_reply failed" in caplog.text)
    assert site.send_request("c", "echo", "server", timeout=5).ok


def test_stop_aborts_waiting_calls_and_ends_all_threads(cells: Cells) -> None:
    parking, replies = Parking(), Replies()
    cells.make("server", {"park": parking})
    site = cells.make("site")
    site.ask("c", "park", "server", on_reply=replies)
    parking.wait()
    site.stop()
    site.stop()
    assert [reply.rc for reply in replies.all] == [ReplyCode.ABORTED]
    assert "cell site was stopped" in replies.all[0].error
    assert threads_of("site") == []
    with pytest.raises(ConfigError, match="does not run"):
        site.send_request("c", "park", "server", timeout=1)
    with pytest.raises(ConfigError, match="was started before"):
        site.start()


def test_stop_writes_queued_messages(cells: Cells) -> None:
    site = cells.make("site")
    for number in range(100):
        site.fire_and_forget("c", "note", "server", {"number": number})
    site.stop()
    assert [entry["meta"] for entry in cells.entries("server")] == [f'{{"number":{number}}}' for number in range(100)]


def test_a_handler_that_never_returns_is_named_when_its_cell_stops(
    cells: Cells, caplog: pytest.LogCaptureFixture
) -> None:
    release = threading.Event()
    server = cells.make("server", {"hang": lambda request: release.wait(60) and None})
    cells.make("site").ask("c", "hang", "server", on_reply=Replies())
    wait_until(lambda: "1 in hand" in repr(server))
    server.stop(timeout=0.2)
    release.set()
    assert "handlers are still busy: redflare-cell-server-1" in caplog.text


def test_a_handler_that_blocks_holds_up_no_other(cells: Cells) -> None:
    release = threading.Event()
    cells.make("server", {"hang": lambda request: release.wait(60) and None, "echo": echo})
    site = cells.make("site")
    for _ in range(20):
        site.ask("c", "hang", "server", on_reply=Replies())
    assert site.send_request("c", "echo", "server", timeout=5).ok
    release.set()


# -- many --------------------------------------------------------------------------------------------------------------


def test_a_broadcast_stores_its_payload_once_and_collects_the_replies(cells: Cells) -> None:
    prefixes = set()

    def answer(request: Request) -> HandlerResult:
        prefixes.add(request.encoded.blob.prefix)  # type: ignore[union-attr]
        return "OK", {"sum": float(request.data.sum())}, None

    for number in range(3):
        cells.make(f"site-{number}", {"sum": answer})
    server = cells.make("server")
    replies = server.broadcast_request("c", "sum", ["site-0", "site-1", "site-2"], None, BIG, timeout=5)
    assert {site: reply.meta["sum"] for site, reply in replies.items()} == {f"site-{n}": BIG.sum() for n in range(3)}
    assert len(prefixes) == 1
    wait_until(lambda: not cells.blobs())


def test_a_broadcast_returns_a_timeout_for_a_cell_that_did_not_answer(cells: Cells) -> None:
    cells.make("site-0", {"echo": echo})
    replies = cells.make("server").broadcast_request("c", "echo", ["site-0", "site-1"], None, BIG, timeout=0.3)
    assert {site: reply.rc for site, reply in replies.items()} == {"site-0": "OK", "site-1": "TIMEOUT"}
    replies["site-0"].release()
    wait_until(lambda: not cells.blobs() and not cells.entries("site-1"))


def test_an_event_reaches_all_its_targets_once_even_those_that_start_later(cells: Cells) -> None:
    received: list[tuple[str, Any]] = []
    listening = {"note": lambda request: received.append((request.meta["to"], request.data.sum()))}
    cells.make("site-0", listening)
    cells.make("server").fire_and_forget("c", "note", ["site-0", "site-1"], {"to": "all"}, BIG)
    wait_until(lambda: len(received) == 1)
    cells.make("site-1", listening)
    wait_until(lambda: len(received) == 2)
    wait_until(lambda: not cells.entries("site-0") and not cells.entries("site-1") and not cells.blobs())
    assert cells.entries("server") == []


def test_an_event_stays_until_its_handler_is_done(cells: Cells) -> None:
    release = threading.Event()
    cells.make("site", {"note": lambda request: release.wait(60) and None})
    cells.make("server").fire_and_forget("c", "note", "site")
    wait_until(lambda: cells.entries("site"))
    release.set()
    wait_until(lambda: not cells.entries("site"))


# -- payloads ----------------------------------------------------------------------------------------------------------


def test_an_encoded_payload_is_passed_on_verbatim(cells: Cells) -> None:
    taken: list[EncodedPayload] = []

    def take(request: Request) -> HandlerResult:
        taken.append(request.encoded)
        return "OK", None, request.encoded

    cells.make("server", {"take": take})
    reply = cells.make("site").send_request("c", "take", "server", None, encode_payload({"w": BIG}), timeout=5)
    assert taken[0].blob is not None
    assert reply.encoded == taken[0]
    np.testing.assert_equal(reply.encoded.decode(cells.server)["w"], BIG)
    assert cells.blobs(), "the code that took it deletes it"


def test_chunks_that_their_sender_keeps_are_not_deleted_by_the_receiver(cells: Cells) -> None:
    parking, replies, kept = Parking(), Replies(), Replies()
    cells.make("server", {"park": parking, "echo": echo})
    site = cells.make("site")
    site.ask("c", "park", "server", None, BIG, on_reply=replies)
    encoded = parking.wait().encoded
    parking.parked[0].reply("OK", None, encoded, keep=True)
    wait_until(lambda: replies.all)
    assert replies.all[0].keep
    np.testing.assert_equal(replies.all[0].data, BIG)
    assert not kept.all
    assert cells.blobs()


def test_chunks_that_a_reply_has_made_are_the_askers_to_delete_although_the_handler_keeps_its_data(
    cells: Cells,
) -> None:
    parking = Parking()
    cells.make("server", {"park": parking})
    replies = Replies()
    cells.make("site").ask("c", "park", "server", on_reply=replies)
    parking.wait().reply("OK", None, BIG, keep=True)
    wait_until(lambda: replies.all)
    assert not replies.all[0].keep
    np.testing.assert_equal(replies.all[0].data, BIG)
    assert not cells.blobs()


def test_a_payload_that_is_not_read_is_deleted_with_the_reply(cells: Cells) -> None:
    cells.make("server", {"note": lambda request: None})
    assert cells.make("site").send_request("c", "note", "server", None, BIG, timeout=5).ok
    wait_until(lambda: not cells.blobs())


def test_a_payload_that_was_lost_is_sent_again(cells: Cells) -> None:
    tried: list[int] = []

    def lossy(request: Request) -> HandlerResult:
        tried.append(request.attempt)
        if len(tried) == 1:
            for key in cells.blobs():
                cells.redis("UNLINK", key)
        return "OK", None, float(request.data.sum())

    cells.make("server", {"sum": lossy})
    assert cells.make("site").send_request("c", "sum", "server", None, BIG, timeout=5).data == BIG.sum()
    assert len(tried) == 2
    assert tried[0] < tried[1]


def test_a_reply_whose_payload_was_lost_raises_blob_missing(cells: Cells) -> None:
    cells.make("server", {"echo": echo})
    reply = cells.make("site").send_request("c", "echo", "server", None, BIG, timeout=5)
    wait_until(lambda: len(cells.blobs()) == 8)
    for key in cells.blobs():
        cells.redis("UNLINK", key)
    with pytest.raises(BlobMissing):
        _ = reply.data


# -- names and states --------------------------------------------------------------------------------------------------


def test_a_cell_shows_its_owner(cells: Cells) -> None:
    cell = cells.make("server")
    flat = cells.redis("HGETALL", "ns:{server}:cell")
    assert isinstance(flat, list)
    held = dict(zip(flat[::2], flat[1::2], strict=True))
    assert held[b"instance"] == cell.instance.encode()
    assert held[b"epoch"] == b"%d" % cell.epoch
    wait_until(lambda: cells.redis("EXISTS", "ns:{server}:heartbeat"))
    cell.stop()
    assert cells.redis("EXISTS", "ns:{server}:heartbeat") == 0
    assert cells.redis("HGET", "ns:{server}:cell", "closed") != b"0"


def test_names_that_are_not_legal_are_refused(cells: Cells) -> None:
    site = cells.make("site")
    with pytest.raises(ConfigError, match="FQCN"):
        site.send_request("c", "echo", "no such{cell}", timeout=1)
    with pytest.raises(ConfigError, match="request_id"):
        site.send_request("c", "echo", "server", timeout=1, request_id="a b")
    with pytest.raises(ConfigError, match="channel"):
        site.fire_and_forget("", "echo", "server")
    with pytest.raises(ConfigError, match="FQCN"):
        Cell(cells.server, "a..b", cells.settings)


def test_two_requests_of_one_id_cannot_wait_at_once(cells: Cells) -> None:
    site = cells.make("site")
    site.ask("c", "echo", "server", on_reply=Replies(), request_id="one")
    with pytest.raises(ValueError, match="a request of id 'one' waits already"):
        site.ask("c", "echo", "server", on_reply=Replies(), request_id="one")


def test_a_cell_that_was_not_started_cannot_be_used(cells: Cells, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    cell = Cell(cells.server, "site", cells.settings)
    with pytest.raises(ConfigError, match=r"does not run: call start\(\) first"):
        cell.fire_and_forget("c", "note", "server")
    cell.stop()
    assert "could not say bye" not in caplog.text


class waiting:  # noqa: N801 - reads as a word
    """Run a call in a thread; its results are in the list."""

    def __init__(self, call: Any) -> None:
        self._got: list[Any] = []
        self._thread = threading.Thread(target=lambda: self._got.append(call()))

    def __enter__(self) -> list[Any]:
        self._thread.start()
        return self._got

    def __exit__(self, *_: object) -> None:
        self._thread.join(10)
