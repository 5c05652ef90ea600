"""Chunks of cells go soon when the process that wrote them is killed before a message names them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from redflare_broker.cell.cell import Cell
from redflare_broker.errors import ServerError, Unavailable
from redflare_broker.payload.encoded_payload import EncodedPayload, encode_payload
from redflare_broker.payload.redis_store import RedisPayloadStore
from redflare_broker.wire.task_entry import BlobRef

from tests.support.cell.cells import RETENTION, SETTINGS, Cells, Parking, Replies, cells_on_fakeredis
from tests.support.waiting import wait_until

BIG = np.zeros(1000)
SOON = 1000 * SETTINGS.heartbeat_ttl
LATE = 1000 * RETENTION


@pytest.fixture
def cells() -> Iterator[Cells]:
    with cells_on_fakeredis() as made:
        yield made


def lives(cells: Cells) -> list[int]:
    """What is left to each chunk, in ms."""
    left = [cells.redis("PTTL", key) for key in cells.blobs()]
    return [ms for ms in left if isinstance(ms, int)]


def stored(cell: Cell) -> EncodedPayload:
    """Write a payload that is to be sent, as a site does with a result."""
    return cell.payloads.store(encode_payload(BIG, cell.settings.limits), cell.keys.blob("x"), lambda: False)


def shorten(cells: Cells) -> None:
    for key in cells.blobs():
        cells.redis("PEXPIRE", key, 500)


def test_chunks_that_no_message_names_yet_live_as_long_as_heartbeats(cells: Cells) -> None:
    # without heartbeats
    site = Cell(cells.server, "site", cells.settings)
    payload = stored(site)
    assert payload.blob is not None
    assert len(lives(cells)) == payload.blob.chunks == 8
    assert all(SOON - 1000 < left <= SOON for left in lives(cells))
    shorten(cells)
    site.payloads.renew()
    assert all(SOON - 1000 < left <= SOON for left in lives(cells))
    site.payloads.discard(payload.blob)
    assert (cells.blobs(), len(site.payloads)) == (set(), 0)


def test_heartbeats_renew_them(cells: Cells) -> None:
    stored(cells.make("site"))
    shorten(cells)
    wait_until(lambda: min(lives(cells)) > 500)


@pytest.mark.parametrize("how", ["request", "stored before", "event", "reply", "broadcast"])
def test_the_message_that_names_them_gives_them_their_life(cells: Cells, how: str) -> None:
    parking, replies, big = Parking(), Replies(), encode_payload(BIG, SETTINGS.limits)
    handlers: dict[str, Callable[..., Any]] = {"park": parking, "give": lambda request: ("OK", None, BIG)}
    server, site = cells.make("server", handlers), cells.make("site", handlers)
    if how in ("request", "stored before"):
        site.ask("c", "park", "server", None, stored(site) if how == "stored before" else big, on_reply=replies)
    elif how == "event":
        site.fire_and_forget("c", "park", "server", None, big)
    elif how == "reply":
        site.ask("c", "give", "server", on_reply=replies)
    else:
        site.ask_many("c", "park", {"a": ("server", None), "b": ("server", None)}, big, on_reply=lambda *_: None)
    if how == "reply":
        wait_until(lambda: replies.all)
    else:
        parking.wait(2 if how == "broadcast" else 1)
    wait_until(lambda: len(site.payloads) == len(server.payloads) == 0)
    assert len(lives(cells)) == 8
    assert all(LATE - 5000 < left <= LATE for left in lives(cells))


def test_a_renewal_at_the_same_time_does_not_shorten_the_life_of_what_is_named(cells: Cells) -> None:
    # without heartbeats
    site = Cell(cells.server, "site", cells.settings)
    payload = stored(site)
    for command in site.payloads.naming(payload.blob):
        cells.redis(*command)
    site.payloads.renew()
    assert all(left > LATE - 5000 for left in lives(cells))
    assert site.payloads.naming(payload.blob) == []


def test_what_could_not_be_written_is_not_renewed(cells: Cells, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Cell(cells.server, "site", cells.settings)

    def refused(*args: object, **options: object) -> BlobRef:
        raise ServerError("NOPERM")

    monkeypatch.setattr(RedisPayloadStore, "put", refused)
    with pytest.raises(ServerError, match="NOPERM"):
        stored(site)
    assert len(site.payloads) == 0


def test_one_that_cannot_be_renewed_does_not_keep_the_others_from_it(
    cells: Cells, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Cell(cells.server, "site", cells.settings)
    big, prefixes = encode_payload(BIG, SETTINGS.limits), [site.keys.blob(name) for name in ("x", "y")]
    for prefix in prefixes:
        site.payloads.store(big, prefix, lambda: False)
    prolong = RedisPayloadStore.prolong

    def first_is_away(self: RedisPayloadStore, ref: BlobRef, *args: Any, **options: Any) -> None:
        if ref.prefix == prefixes[0]:
            raise Unavailable("away")
        prolong(self, ref, *args, **options)

    monkeypatch.setattr(RedisPayloadStore, "prolong", first_is_away)
    shorten(cells)
    site.payloads.renew()
    assert sorted(left > 500 for left in lives(cells)) == [False] * 8 + [True] * 8
