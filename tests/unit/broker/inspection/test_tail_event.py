"""The events of a tail for a ledger, and for any entry of a stream."""

from __future__ import annotations

import pytest
from redflare_broker.inspection.tail_event import ledger_events, stream_event
from redflare_broker.inspection.task_view import TaskView


def states(**ledger: object) -> list[tuple[int, str]]:
    texts = {name: str(value) for name, value in ledger.items()}
    task = TaskView.read("a--b", "t1", {"session": "cj", "agent": "ag", **texts}, 99, 1000)
    return [(event.time_ms, event.text) for event in ledger_events(task)]


def test_all_states_since_the_assignment_are_reported() -> None:
    assert states(status="NEW", assigned=10) == [(10, "NEW: assigned by CJ cj")]
    assert states(status="SUBMITTED", assigned=10, fetched=20, submitted=30, rc="OK", attempt=2) == [
        (10, "NEW: assigned by CJ cj"),
        (20, "FETCHED: fetched by agent ag, attempt 2"),
        (30, "SUBMITTED: submitted by agent ag, rc OK"),
    ]


def test_a_task_that_was_aborted_early_skips_states() -> None:
    assert states(status="ABORTED", assigned=10, settled=20, reason="over") == [
        (10, "NEW: assigned by CJ cj"),
        (20, "ABORTED: over"),
    ]


def test_times_of_an_earlier_assignment_are_ignored() -> None:
    assert states(status="NEW", assigned=40, fetched=20, submitted=30) == [(40, "NEW: assigned by CJ cj")]


def test_a_task_whose_payload_was_lost_is_new_again() -> None:
    again = states(status="NEW", assigned=10, fetched=20, rc="BLOB_MISSING", reason="chunk 3 is gone")

    assert again == [(20, "NEW: assigned by CJ cj, again: chunk 3 is gone")]


@pytest.mark.parametrize(
    ("kind", "flat", "text"),
    [
        (
            "task",
            [b"topic", b"get_task", b"task_name", b"train", b"b0", b"x" * 2000],
            "task 'train' in the stream (2.0 kB)",
        ),
        ("result", [b"topic", b"submit_result", b"rc", b"OK", b"blobs", b"{}"], "rc OK (29 B, payload in blobs)"),
        (
            "result",
            [b"topic", b"get_task", b"rc", b"BAD", b"reason", b"why"],
            "the agent refused the task, rc BAD: why",
        ),
        ("result", [b"topic", b"hello", b"sender", b"h:1:a"], "unknown entry: 2 fields, 21 B"),
        ("result", [b"topic", b"\xff"], "unknown entry: 1 fields, 6 B"),
        ("task", [b"odd"], "unknown entry: 0 fields, 3 B"),
    ],
)
def test_an_entry_becomes_one_line(kind: str, flat: list[bytes], text: str) -> None:
    event = stream_event("a--b", "task" if kind == "task" else "result", "123-0", flat)

    assert event.text.endswith(text)
    assert (event.time_ms, event.facts["entry"]) == (123, "123-0")
