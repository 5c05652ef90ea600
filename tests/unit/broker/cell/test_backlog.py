"""What is passed over in an inbox, and read when there is room for it."""

from __future__ import annotations

import pytest
from redflare_broker.cell.backlog import Backlog

Entry = tuple[str, list[bytes]]


def entry(number: int, sender: str, kind: str = "request") -> Entry:
    return f"7-{number}", [b"v", b"1", b"kind", kind.encode(), b"origin", sender.encode()]


class BacklogBench:
    """A backlog, and the senders whose room is taken."""

    def __init__(self) -> None:
        self.full: set[str] = set()
        self.backlog = Backlog(lambda sender: 1.0 if sender in self.full else 0.0)

    def read(self, *entries: Entry, after: str = "7-0") -> list[str]:
        """Read new entries; return those that are taken at once."""
        taken = []
        for entry_id, fields in entries:
            if not self.backlog.passes_over(after, fields):
                taken.append(entry_id)
            after = entry_id
        return taken

    def again(self, *entries: Entry, all_read: bool = False) -> list[str]:
        """Read the backlog from its start; return what is taken now."""
        start = self.backlog.start()
        return [entry_id for entry_id, _ in self.backlog.admit(start, entries, all_read=all_read)]


@pytest.fixture
def bench() -> BacklogBench:
    return BacklogBench()


def test_a_sender_without_room_is_passed_over_and_others_are_not(bench: BacklogBench) -> None:
    bench.full = {"a"}
    assert bench.read(entry(1, "b"), entry(2, "a"), entry(3, "b"), entry(4, "a")) == ["7-1", "7-3"]
    assert len(bench.backlog) == 1
    assert bench.backlog.start() == ""


def test_its_later_requests_wait_for_its_earlier_ones_and_its_replies_do_not(bench: BacklogBench) -> None:
    bench.full = {"a"}
    assert bench.read(entry(1, "a")) == []
    bench.full = set()
    assert bench.read(entry(2, "a"), entry(3, "a", "reply"), after="7-1") == ["7-3"]
    assert bench.backlog.start() == "7-0"
    assert bench.again(entry(1, "a"), entry(2, "a"), entry(3, "a", "reply"), all_read=True) == ["7-1", "7-2"]
    assert len(bench.backlog) == 0
    assert bench.read(entry(4, "a"), after="7-3") == ["7-4"]


def test_what_was_taken_the_first_time_is_not_taken_again(bench: BacklogBench) -> None:
    bench.full = {"a"}
    assert bench.read(entry(1, "b"), entry(2, "a"), entry(3, "c")) == ["7-1", "7-3"]
    bench.full = set()
    assert bench.again(entry(2, "a"), entry(3, "c"), all_read=True) == ["7-2"]


def test_one_that_is_full_again_goes_on_where_it_stopped_and_holds_up_no_other(bench: BacklogBench) -> None:
    entries = [entry(1, "a"), entry(2, "b"), entry(3, "a"), entry(4, "b")]
    bench.full = {"a", "b"}
    assert bench.read(*entries) == []
    bench.full = set()
    taken = []
    for entry_id, _ in bench.backlog.admit(bench.backlog.start(), entries, all_read=True):
        taken.append(entry_id)
        bench.full = {"a"}
    assert taken == ["7-1", "7-2", "7-4"]
    bench.full = set()
    assert bench.backlog.start() == "7-2"
    assert bench.again(*entries[2:], all_read=True) == ["7-3"]


def test_one_that_is_further_back_and_gets_room_meanwhile_keeps_its_order(bench: BacklogBench) -> None:
    bench.full = {"a", "b"}
    assert bench.read(entry(1, "a"), entry(2, "b"), entry(3, "a")) == []
    bench.full = {"a"}
    start = bench.backlog.start()
    assert start == "7-1"
    bench.full = set()
    assert [each for each, _ in bench.backlog.admit(start, [entry(2, "b"), entry(3, "a")], all_read=True)] == ["7-2"]
    assert bench.again(entry(1, "a"), entry(2, "b"), entry(3, "a"), all_read=True) == ["7-1", "7-3"]


def test_no_sender_takes_more_than_a_few_on_the_way_to_the_end(bench: BacklogBench) -> None:
    pile = [entry(number, "a") for number in range(1, 1001)]
    assert len(bench.read(*pile, entry(1001, "b"))) == 257
    bench.backlog.at_end()
    assert bench.backlog.start() == "7-256"
    assert len(bench.again(*pile[256:384])) == 128
    assert bench.backlog.start() == "7-384"
