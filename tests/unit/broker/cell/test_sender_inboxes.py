"""Which inboxes of a cell are read next, and from where."""

from __future__ import annotations

import logging

import pytest
from redflare_broker.cell import sender_inboxes
from redflare_broker.cell.sender_inboxes import SenderInboxes
from redflare_broker.keys import Keys

KEYS = Keys("ns").cell("server")


def inbox(owner: str) -> str:
    return f"ns:{{server}}:inbox:{owner}"


@pytest.fixture
def loads() -> dict[str, float]:
    """How much of each sender's room is taken; what a test changes here counts at once."""
    return {}


@pytest.fixture
def inboxes(loads: dict[str, float]) -> SenderInboxes:
    return SenderInboxes(KEYS, lambda owner: loads.get(owner, 0.0), ["server", "site-1"])


def test_all_inboxes_are_read_each_behind_what_was_taken_of_it(inboxes: SenderInboxes) -> None:
    assert inboxes.takes(inbox("site-1"), "5-0", [])
    inboxes.add(["site-2", "site-1"])
    _, streams = inboxes.next_read(128)
    assert streams == [inbox("server"), inbox("site-1"), inbox("site-2"), "0", "5-0", "0"]
    inboxes.begin_anew()
    assert inboxes.next_read(128)[1][3:] == ["0", "0", "0"]


@pytest.mark.parametrize(("entries", "each"), [(128, 64), (2048, 256), (1, 1)])
def test_the_entries_of_a_read_are_shared_by_the_senders(inboxes: SenderInboxes, entries: int, each: int) -> None:
    assert inboxes.next_read(entries)[0] == each


def test_of_a_sender_without_room_only_replies_are_taken_until_half_of_it_is_free(
    inboxes: SenderInboxes, loads: dict[str, float]
) -> None:
    one, request, reply = inbox("site-1"), [b"kind", b"request"], [b"kind", b"reply"]
    assert inboxes.takes(one, "1-0", request)
    loads["site-1"] = 1.0
    taken = [inboxes.takes(one, f"{number}-0", fields) for number, fields in enumerate((request, reply, request), 2)]
    assert taken == [False, True, False]
    assert inboxes.takes(inbox("server"), "7-0", request)
    loads["site-1"] = 0.6
    assert inboxes.next_read(128)[1][2:] == ["7-0", "4-0"], "behind what was passed over"
    assert inboxes.some_wait
    loads["site-1"] = 0.5
    assert inboxes.next_read(128)[1][2:] == ["7-0", "1-0"], "behind the last request that was taken"
    assert not inboxes.some_wait
    assert inboxes.takes(one, "2-0", request)
    loads["site-1"] = 1.0
    assert [inboxes.takes(one, f"{number}-0", reply) for number in (3, 4, 5)] == [False, False, True], "each once"
    assert inboxes.next_read(128)[1][2:] == ["7-0", "5-0"]


def test_a_name_that_no_sender_can_have_is_not_read(inboxes: SenderInboxes) -> None:
    inboxes.add(["a}:x", "", "site-1.job"])
    assert inboxes.keys == (inbox("server"), inbox("site-1"))


def test_more_senders_than_can_be_read_are_one_line_in_the_log(
    inboxes: SenderInboxes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sender_inboxes, "MOST_SENDERS", 3)
    for _ in range(2):
        inboxes.add([f"site-{number}" for number in range(9)])
    assert len(inboxes) == 3
    [line] = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert line.startswith("server: 3 senders are read, which is the most;")
