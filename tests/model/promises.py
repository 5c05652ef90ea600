"""The seven promises of docs/protocol.md, as checks of one move, of one world, and of a whole graph of worlds.

What can honestly be promised when Redis loses all its data: it has then forgotten which tasks were accepted or aborted,
and who holds the link. What is left is what the processes remember.

- The CJ never asks again for a task whose result it has used, or that it has aborted: so each result is *used* once,
  and an aborted task is not accepted later. But Redis may *accept* a second time, namely the result of a task whose
  acceptance it forgot before the CJ was told of it: then the first was used by nobody.
- The work of a task that Redis forgot before its result was used is done again, unless its agent still has the result.
- An instance that was replaced without noticing may hold the link again, until the newer one looks: it is fenced then,
  for its epoch is lower. Two CJs that overlap in this way may both use a result, or one may do what the other has
  aborted. Redis cannot know better; the workflow above takes the first and drops what it does not wait for.

A payload that is lost (``excused`` in the history, like the loss of all data) makes a task go back to NEW: its work may
be done twice, its result is still used once.
"""

from __future__ import annotations

from collections.abc import Iterator

from redflare_broker.scripts.task_states import ACCEPTED, FETCHED, NEW, SUBMITTED, may

from tests.model.link_clients import ALIVE
from tests.model.link_model import Db
from tests.model.link_world import TASKS, Move, World

OPEN = (NEW, FETCHED, SUBMITTED)


def broken_by(before: World, move: Move) -> Iterator[str]:
    """What a move does that no move may do."""
    after, step = move.world, move.step
    if after.db is before.db and after.history is before.history:
        return
    for at, task in enumerate(TASKS):
        first, then = before.history.used[at], after.history.used[at]
        if first != then and first and not after.history.excused:
            yield f"1: {task} was used with {first}, and again with {then}"
        if first != then and then != after.history.accepted[at] and not after.history.excused:
            yield f"1: {task} is used with {then}, but Redis accepted {after.history.accepted[at]!r}"
    if step is None or after.db is before.db:
        return
    for at, task in enumerate(TASKS):
        was, now = before.db.ledger(task), after.db.ledger(task)
        if not may(step.name, was.status, now.status):
            yield f"1: {step.name} made {task} {now.status}, it was {was.status}"
        there = was.result not in before.history.gone and any(letter.ref == was.result for letter in before.db.results)
        if was.status in (SUBMITTED, ACCEPTED) and now.status == NEW and there:
            yield f"2: {task} was {was.status}, and its payload was there, but it is handed out again"
        overlap = after.history.excused and after.cjs[1].phase != "off"
        if before.history.outcome[at] == "used" and was.status not in OPEN and now.status in OPEN and not overlap:
            yield f"1: {task} was used, and is handed out again"
        told = all(cj.phase != "dead" and (cj.phase, cj.task) != ("abort", task) for cj in before.cjs)
        if (
            before.history.outcome[at] == "aborted"
            and was.status is None
            and now.status in OPEN
            and told
            and not overlap
        ):
            yield f"1: the CJ has aborted {task}, and it is handed out after that"
    held, holds = before.db.side(step.me.role), after.db.side(step.me.role)
    if holds.epoch < held.epoch:
        yield f"3: {held.name} was replaced by {holds.name}, which is older"
    if held.epoch > step.me.epoch and after.db != before.db:
        yield f"3: {step.me.name} changed the link, though {held.name} is newer"


def broken_in(world: World) -> Iterator[str]:
    """What no world may look like."""
    db = world.db
    letters = {letter.ref for letter in db.results}
    for task in TASKS:
        ledger = db.ledger(task)
        if (ledger.status in OPEN) != (db.task == task):
            yield f"4: {task} is {ledger.status}, the link's open task is {db.task!r}"
        if ledger.status in (NEW, FETCHED) and task not in db.tasks and ledger.result not in letters:
            yield f"4: {task} is {ledger.status}, but nobody can find it"
        if ledger.status == SUBMITTED and ledger.result not in letters:
            yield f"2: {task} is {SUBMITTED}, but its result is not in the stream"
    if world.agents[1].phase == "off" and not world.history.excused and max(world.history.works) > 1:
        yield f"5: the one agent there was has begun its work {world.history.works} times"
    if set(db.tasks) - {db.task} or letters - _known(db):
        yield f"7: left over: {set(db.tasks) - {db.task}} in tasks, {letters - _known(db)} in results"
    if db.over and (db.tasks or db.task or db.kept or letters):
        yield f"7: both sides are gone, but left {db}"


def hopeful(world: World) -> bool:
    """Whether an agent and a CJ are up that are nobody's predecessors: every task must end without further faults."""
    return all(
        any(
            process.phase == "start" or (process.phase in ALIVE and process.epoch >= held.epoch)
            for process in processes
        )
        for processes, held in ((world.agents, world.db.agent), (world.cjs, world.db.cj))
    )


def ended(world: World) -> bool:
    """Whether every task has come to an end that the workflow knows of."""
    return all(world.history.outcome)


def _known(db: Db) -> set[str]:
    """The letters that belong there."""
    return {db.kept, db.ledger(db.task).result if db.task else ""}
