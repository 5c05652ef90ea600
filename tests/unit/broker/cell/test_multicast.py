"""Requests to several cells at once, and the heartbeat of another cell."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from redflare_broker.cell.cell import ReplyCode, Request
from redflare_broker.cell.request import Reply
from redflare_broker.errors import ConfigError, EncodeError

from tests.support.cell.cells import Cells, Parking, cells_on_fakeredis
from tests.support.waiting import wait_until

BIG = np.arange(1000.0)


@pytest.fixture
def cells() -> Iterator[Cells]:
    with cells_on_fakeredis() as made:
        yield made


class RecordedReplies:
    def __init__(self) -> None:
        self.replies: dict[str, Reply] = {}

    def __call__(self, key: str, reply: Reply) -> None:
        self.replies[key] = reply


def echo(request: Request) -> tuple[str, dict[str, object], object]:
    return "OK", request.meta, request.data


@pytest.mark.parametrize("data", [7, {"w": BIG}], ids=["small", "large"])
def test_each_target_gets_its_own_meta_and_the_same_data_and_a_cell_may_be_asked_twice(
    cells: Cells, data: object
) -> None:
    for name in ("a", "b"):
        cells.make(name, {"echo": echo})
    recorded = RecordedReplies()
    targets = {"1": ("a", {"n": 1}), "2": ("b", {"n": 2}), "3": ("a", {"n": 3})}
    cells.make("site").ask_many("c", "echo", targets, data, on_reply=recorded)
    wait_until(lambda: len(recorded.replies) == 3)
    assert {key: reply.meta["n"] for key, reply in recorded.replies.items()} == {"1": 1, "2": 2, "3": 3}
    for reply in recorded.replies.values():
        np.testing.assert_equal(reply.data, data)
    wait_until(lambda: not cells.blobs())


def test_a_large_payload_is_stored_once_and_deleted_when_all_have_answered(cells: Cells) -> None:
    parked = {name: Parking() for name in ("a", "b")}
    for name, parking in parked.items():
        cells.make(name, {"park": parking})
    recorded = RecordedReplies()
    asked = cells.make("site").ask_many("c", "park", {n: (n, None) for n in parked}, {"w": BIG}, on_reply=recorded)
    requests = [parking.wait() for parking in parked.values()]
    assert len({key.rsplit(":", 1)[0] for key in cells.blobs()}) == 1
    wait_until(lambda: asked.is_written("a") and asked.is_written("b"))
    requests[0].reply()
    wait_until(lambda: "a" in recorded.replies)
    assert cells.blobs()
    requests[1].reply()
    wait_until(lambda: not cells.blobs())
    assert asked.is_written("a")


def test_after_a_cancel_no_reply_is_reported(cells: Cells) -> None:
    parking, recorded = Parking(), RecordedReplies()
    for name in ("a", "b"):
        cells.make(name, {"park": parking})
    asked = cells.make("site").ask_many("c", "park", {n: (n, None) for n in "ab"}, {"w": BIG}, on_reply=recorded)
    parking.wait(2)
    asked.cancel()
    asked.cancel()
    wait_until(lambda: not cells.blobs())
    for request in parking.parked:
        request.reply()
    wait_until(lambda: not cells.entries("site"))
    assert recorded.replies == {}


def test_nothing_is_sent_when_one_of_them_cannot_be(cells: Cells) -> None:
    site, recorded = cells.make("site"), RecordedReplies()
    with pytest.raises(EncodeError):
        site.ask_many("c", "t", {"a": ("a", None), "b": ("b", {"x": b"y"})}, on_reply=recorded)
    with pytest.raises(ConfigError):
        site.ask_many("c", "t", {"a": ("a", None), "b": ("b b", None)}, on_reply=recorded)
    assert cells.entries("a") == []


def test_a_payload_that_is_not_sent_after_all_is_deleted(cells: Cells) -> None:
    site = cells.make("site")
    with pytest.raises(ConfigError, match="topic"):
        site.ask_many("c", "not a word", {n: (n, None) for n in "ab"}, {"w": BIG}, on_reply=RecordedReplies())
    wait_until(lambda: not cells.blobs())
    assert len(site.payloads) == 0


def test_a_cell_that_stops_aborts_all(cells: Cells) -> None:
    recorded = RecordedReplies()
    site = cells.make("site")
    site.ask_many("c", "t", {n: (n, None) for n in "ab"}, {"w": BIG}, on_reply=recorded)
    site.stop()
    assert {key: reply.rc for key, reply in recorded.replies.items()} == dict.fromkeys("ab", ReplyCode.ABORTED)
    wait_until(lambda: not cells.blobs())


def test_the_last_heartbeat_of_a_cell_has_its_instance_and_age(cells: Cells) -> None:
    site, other = cells.make("site"), cells.make("other")
    wait_until(lambda: site.heartbeat_of("other"))
    heartbeat = site.heartbeat_of("other")
    assert heartbeat is not None
    assert heartbeat.instance == other.instance
    assert 0 <= heartbeat.age < 2
    assert heartbeat.interval == other.interval
    other.stop()
    wait_until(lambda: site.heartbeat_of("other") is None)
    assert site.heartbeat_of("nobody") is None
    assert site.in_touch


def test_an_invalid_value_is_not_a_heartbeat(cells: Cells) -> None:
    site = cells.make("site")
    cells.redis("SET", site.federation_keys.cell("odd").heartbeat, b"[]", "PX", 1000)
    assert site.heartbeat_of("odd") is None
