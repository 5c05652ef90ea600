"""The life of a task, as a table.

A task's status is in its ledger in Redis and is changed by the Lua scripts alone; each row of
``TRANSITIONS`` is one thing a script may do, and whatever has no row cannot happen::

    assign          take             submit             settle
     NEW ----------> FETCHED --------> SUBMITTED --------> ACCEPTED
      |                 | refuse           | settle
      |                 +------------------+-------------> REJECTED
      +------ abort, assign of another ----+-------------> ABORTED

A link has at most one task that is *open*: NEW, FETCHED or SUBMITTED. While it is NEW or FETCHED its entry stands in
the stream of tasks; from SUBMITTED on the result stands in the stream of results. REJECTED and ABORTED are final.
ACCEPTED is too, but for two cases. Nobody has used the result yet and its payload is gone: any payload may be lost (it
may live in a Redis that keeps nothing), and then the task goes back to NEW and is sent again, not given up. Or the CJ,
which accepts a small result in the round trip that brings it, cannot read what it got: it revokes its acceptance.

A repeated step finds the status it has made itself, for which it has no row: it changes nothing. The status None is
that of a task without a ledger: never assigned, expired after it was settled, or forgotten by a Redis that lost it.

The Lua scripts do not read this table. The tests compare every step they make with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Status = Literal["NEW", "FETCHED", "SUBMITTED", "ACCEPTED", "REJECTED", "ABORTED"]
Step = Literal["assign", "take", "refuse", "submit", "settle", "abort"]

#: It stands in Redis, in nobody's hands.
NEW: Final = "NEW"
#: An agent has it.
FETCHED: Final = "FETCHED"
#: Its result stands in Redis.
SUBMITTED: Final = "SUBMITTED"
#: The CJ has the result in hand.
ACCEPTED: Final = "ACCEPTED"
#: The agent could not read the task, or the CJ not the result.
REJECTED: Final = "REJECTED"
#: Nobody wants it any more.
ABORTED: Final = "ABORTED"

STATUSES: Final[tuple[Status, ...]] = (NEW, FETCHED, SUBMITTED, ACCEPTED, REJECTED, ABORTED)
SETTLED: Final[frozenset[str]] = frozenset((ACCEPTED, REJECTED, ABORTED))


@dataclass(frozen=True, slots=True)
class Transition:
    """A step that changes a task's status."""

    step: Step
    source: Status | None
    target: Status
    reason: str


TRANSITIONS: Final = (
    Transition("assign", None, NEW, "the CJ hands the task to the link"),
    Transition("take", NEW, FETCHED, "an agent has read the task"),
    Transition("take", FETCHED, FETCHED, "the agent that had it was replaced: one attempt more"),
    Transition("submit", FETCHED, SUBMITTED, "the agent hands in the result"),
    Transition("submit", NEW, SUBMITTED, "a restarted agent hands in the result its predecessor has worked out"),
    Transition("settle", SUBMITTED, ACCEPTED, "the CJ has the result"),
    Transition("settle", SUBMITTED, REJECTED, "the result cannot be read"),
    Transition("settle", ACCEPTED, REJECTED, "the same, found out after it was accepted"),
    Transition("refuse", FETCHED, REJECTED, "the task cannot be read"),
    Transition("refuse", FETCHED, NEW, "the task's payload is gone: the CJ is asked to send it again"),
    Transition("assign", NEW, NEW, "the CJ sends a task again whose payload was gone"),
    Transition("assign", FETCHED, NEW, "the same, and an agent had read what stands there meanwhile"),
    Transition("assign", SUBMITTED, NEW, "the result's payload is gone: the agent is asked for it again"),
    Transition("assign", ACCEPTED, NEW, "the result's payload went before the CJ, or its successor, used it"),
    Transition("abort", NEW, ABORTED, "nobody wants it any more"),
    Transition("abort", FETCHED, ABORTED, "the same; its agent is told"),
    Transition("abort", SUBMITTED, ABORTED, "the same; its result is thrown away"),
    Transition("abort", None, ABORTED, "the CJ gave it up while its assign was still on the way"),
    Transition("assign", NEW, ABORTED, "another task replaces it"),
    Transition("assign", FETCHED, ABORTED, "the same; its agent is told"),
    Transition("assign", SUBMITTED, ABORTED, "the same; its result is thrown away"),
)

_TARGETS: Final = frozenset((row.step, row.source, row.target) for row in TRANSITIONS)


def settled(status: str | None) -> bool:
    """Whether nothing is left to do for a task: no agent will get it, no result is waited for."""
    return status in SETTLED


def may(step: str, source: str | None, target: str | None) -> bool:
    """Whether a step may lead from one status to another; staying as it is is always allowed."""
    return source == target or (step, source, target) in _TARGETS
