"""The seven promises of docs/protocol.md, as checks of a transition, of a state, and of the whole graph of states.

When Redis loses all its data, it no longer knows which tasks were accepted or aborted, nor which instances hold the
link. Only the state of the processes is left, so less can be promised:

- The CJ never asks again for a task whose result it has used, or that it has aborted: so each result is *used* once,
  and an aborted task is not accepted later. But Redis may *accept* a second time, namely the result of a task whose
  acceptance it lost before the CJ got the reply: then the first was not used.
- The work of a task that Redis forgot before its result was used is done again, unless its agent still has the result.
- An instance that was replaced without noticing may hold the link again, until the newer one runs its next
  step: then it is fenced, for its epoch is lower. Two CJs that overlap in this way may both use a result, or one may
  run what the other has aborted. Redis cannot prevent that; the workflow takes the first result and drops others.

A payload that is lost (``excused`` in the history, like the loss of all data) makes a task go back to NEW: its work may
be done twice, its result is still used once.
"""

from __future__ import annotations

from collections.abc import Iterator

from redflare_broker.scripts.task_states import ACCEPTED, FETCHED, NEW, SUBMITTED, may

from tests.model.link_clients import ALIVE
from tests.model.link_model import LinkState
from tests.model.system_state import TASKS, SystemState, Transition

OPEN = (NEW, FETCHED, SUBMITTED)


def broken_by(before: SystemState, transition: Transition) -> Iterator[str]:
    """The promises that a transition breaks."""
    after, step = transition.state, transition.step
    if after.link is before.link and after.history is before.history:
        return
    for at, task in enumerate(TASKS):
        used, used_after = before.history.used[at], after.history.used[at]
        if used != used_after and used and not after.history.excused:
            yield f"1: {task} was used with {used}, and again with {used_after}"
        if used != used_after and used_after != after.history.accepted[at] and not after.history.excused:
            yield f"1: {task} is used with {used_after}, but Redis accepted {after.history.accepted[at]!r}"
    if step is None or after.link is before.link:
        return
    for at, task in enumerate(TASKS):
        was, now = before.link.ledger(task), after.link.ledger(task)
        if not may(step.name, was.status, now.status):
            yield f"1: {step.name} made {task} {now.status}, it was {was.status}"
        available = was.result not in before.history.gone and any(
            entry.ref == was.result for entry in before.link.results
        )
        if was.status in (SUBMITTED, ACCEPTED) and now.status == NEW and available:
            yield f"2: {task} was {was.status}, and its payload was there, but it is handed out again"
        overlap = after.history.excused and after.cjs[1].phase != "off"
        if before.history.outcome[at] == "used" and was.status not in OPEN and now.status in OPEN and not overlap:
            yield f"1: {task} was used, and is handed out again"
        all_know = all(cj.phase != "dead" and (cj.phase, cj.task) != ("abort", task) for cj in before.cjs)
        if (
            before.history.outcome[at] == "aborted"
            and was.status is None
            and now.status in OPEN
            and all_know
            and not overlap
        ):
            yield f"1: the CJ has aborted {task}, and it is handed out after that"
    holder, holder_after = before.link.side(step.instance.role), after.link.side(step.instance.role)
    if holder_after.epoch < holder.epoch:
        yield f"3: {holder.name} was replaced by {holder_after.name}, which is older"
    if holder.epoch > step.instance.epoch and after.link != before.link:
        yield f"3: {step.instance.name} changed the link, though {holder.name} is newer"


def broken_in(system: SystemState) -> Iterator[str]:
    """The promises that a state breaks."""
    link = system.link
    entries = {entry.ref for entry in link.results}
    for task in TASKS:
        ledger = link.ledger(task)
        if (ledger.status in OPEN) != (link.task == task):
            yield f"4: {task} is {ledger.status}, the link's open task is {link.task!r}"
        if ledger.status in (NEW, FETCHED) and task not in link.tasks and ledger.result not in entries:
            yield f"4: {task} is {ledger.status}, but is in neither stream"
        if ledger.status == SUBMITTED and ledger.result not in entries:
            yield f"2: {task} is {SUBMITTED}, but its result is not in the stream"
    if system.agents[1].phase == "off" and not system.history.excused and max(system.history.executions) > 1:
        yield f"5: the only agent has executed them {system.history.executions} times"
    if set(link.tasks) - {link.task} or entries - _expected_entries(link):
        yield f"7: left over: {set(link.tasks) - {link.task}} in tasks, {entries - _expected_entries(link)} in results"
    if link.over and (link.tasks or link.task or link.kept or entries):
        yield f"7: both sides are gone, but left {link}"


def can_finish(system: SystemState) -> bool:
    """Whether an agent and a CJ run that were not replaced: then every task must end without further faults."""
    return all(
        any(
            process.phase == "start" or (process.phase in ALIVE and process.epoch >= holder.epoch)
            for process in processes
        )
        for processes, holder in ((system.agents, system.link.agent), (system.cjs, system.link.cj))
    )


def ended(system: SystemState) -> bool:
    """Whether the workflow knows the outcome of every task."""
    return all(system.history.outcome)


def _expected_entries(link: LinkState) -> set[str]:
    """Ids of the entries that must be in results."""
    return {link.kept, link.ledger(link.task).result if link.task else ""}
