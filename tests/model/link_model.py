"""A model of the link in Redis, in pure Python: immutable states, and one function for each Lua script.

A step takes the state and returns the next one with the reply; it is the specification of the script of the same name,
and ``test_scripts_match_model.py`` runs the two side by side. Times, sizes and names are left out,
as no step depends on them. Entry ids describe the entry: ``refused:t1:2`` is the refusal of t1 at its second attempt,
``result:s1`` the result with the submit id s1. Of an entry in tasks only the task id is kept.
"""

from __future__ import annotations

from typing import NamedTuple

from redflare_broker.scripts.task_states import ABORTED, ACCEPTED, FETCHED, NEW, REJECTED, SUBMITTED, settled

Reply = tuple[str | int, ...]


class Instance(NamedTuple):
    """The instance of an agent or a CJ that runs a step."""

    role: str
    name: str
    epoch: int


class Side(NamedTuple):
    """One side of the link."""

    name: str = ""
    epoch: int = 0
    closed: bool = False


class Ledger(NamedTuple):
    """The ledger of a task; status None: there is none."""

    status: str | None = None
    attempt: int = 0
    #: how many agents that had it have gone without a goodbye
    died: int = 0
    #: epoch of the agent that took it, or submitted its result
    epoch: int = 0
    submit_id: str = ""
    #: submit id of a result whose payload is gone
    lost: str = ""
    #: id of its entry in results, kept after that entry was deleted
    result: str = ""


class ResultEntry(NamedTuple):
    """An entry of the stream of results."""

    topic: str
    task: str
    ref: str


class LinkState(NamedTuple):
    """All keys of a link."""

    agent: Side = Side()
    cj: Side = Side()
    #: the open task
    task: str = ""
    #: the task that was added last
    last: str = ""
    #: entry of a settled task that is still in results, and that task
    kept: str = ""
    kept_task: str = ""
    ledgers: tuple[tuple[str, Ledger], ...] = ()
    tasks: tuple[str, ...] = ()
    results: tuple[ResultEntry, ...] = ()
    dead: int = 0
    #: epoch of the last agent that said bye
    left: int = 0
    #: both sides have left and no task is open: the keys have the TTL of a settled ledger
    over: bool = False

    def ledger(self, task: str) -> Ledger:
        for known, ledger in self.ledgers:
            if known == task:
                return ledger
        return _UNKNOWN

    def side(self, role: str) -> Side:
        return self.agent if role == "agent" else self.cj


EMPTY = LinkState()
_UNKNOWN = Ledger()


def hello(state: LinkState, instance: Instance, now: int) -> tuple[LinkState, Reply]:
    holder = state.side(instance.role)
    if holder.name == instance.name and holder.epoch >= instance.epoch:
        return state, ("OK", holder.epoch)
    if instance.epoch == 0:
        return state, ("NEXT", max(holder.epoch + 1, now))
    if holder.epoch >= instance.epoch:
        return state, ("FENCED", holder.epoch)
    side = Side(instance.name, instance.epoch)
    state = state._replace(agent=side) if instance.role == "agent" else state._replace(cj=side)
    return state._replace(over=False), ("OK", instance.epoch)


def bye(state: LinkState, instance: Instance) -> tuple[LinkState, Reply]:
    if refusal := _fenced_or_lost(state, instance):
        return state, refusal
    if state.side(instance.role).closed:
        return state, ("OK",)
    if instance.role == "agent":
        state = state._replace(agent=state.agent._replace(closed=True), left=instance.epoch)
    else:
        results = _without(state.results, state.kept)
        state = state._replace(cj=state.cj._replace(closed=True), kept="", kept_task="", results=results)
    over = state.cj.closed and (state.agent.closed or not state.agent.name) and not state.task
    return state._replace(over=over), ("OK",)


def assign(
    state: LinkState, instance: Instance, task: str, expected: str = "", lost: str = ""
) -> tuple[LinkState, Reply]:
    if refusal := _fenced_or_lost(state, instance):
        return state, refusal
    known = state.ledger(task)
    if known.status == ACCEPTED and state.last not in ("", task):
        return state, (ACCEPTED, "")
    if known.status and (known.status in (ABORTED, REJECTED) or not lost or lost != known.result):
        return state, (known.status, known.result)
    if state.task not in ("", task):
        if state.task != expected:
            return state, ("BUSY", state.task)
        state = _finish(state, state.task, ABORTED)
    results = _without(_without(state.results, known.result), state.kept)
    ledger = Ledger(NEW, known.attempt, known.died, known.epoch, lost=known.submit_id or known.lost)
    state = _write(state, task, ledger)
    state = state._replace(task=task, last=task, tasks=(task,), results=results, kept="", kept_task="")
    return state, (NEW, "")


def take(state: LinkState, instance: Instance, task: str) -> tuple[LinkState, Reply]:
    if refusal := _fenced_or_lost(state, instance):
        return state, refusal
    known = state.ledger(task)
    if not known.status or task != state.task:
        return state, ("NONE",)
    if known.status == SUBMITTED:
        return state, (SUBMITTED,)
    if known.status == FETCHED and known.epoch not in (instance.epoch, state.left):
        known = known._replace(died=known.died + 1)
    if known.status == NEW or known.epoch != instance.epoch:
        known = known._replace(status=FETCHED, epoch=instance.epoch, attempt=known.attempt + 1)
    return _write(state, task, known), (FETCHED, known.attempt, known.died)


def refuse(state: LinkState, instance: Instance, task: str, rc: str) -> tuple[LinkState, Reply]:
    if refusal := _fenced_or_lost(state, instance):
        return state, refusal
    known = state.ledger(task)
    if known.status != FETCHED or known.epoch != instance.epoch:
        return state, (known.status or "GONE",)
    ref = f"refused:{task}:{known.attempt}"
    entries = (*_without(state.results, known.result), ResultEntry("get_task", task, ref))
    again = rc == "BLOB_MISSING"
    if again:
        state = _write(state, task, known._replace(status=NEW, result=ref))
        return state._replace(tasks=(), results=entries), (NEW,)
    unreadable = rc != "EXECUTION_EXCEPTION" and task in state.tasks
    state = state._replace(dead=state.dead + unreadable)
    state = _write(_finish(state, task, REJECTED), task, known._replace(status=REJECTED, result=ref))
    return state._replace(results=entries, kept=ref, kept_task=task), (REJECTED,)


def submit(state: LinkState, instance: Instance, task: str, submit_id: str) -> tuple[LinkState, Reply]:
    if refusal := _fenced_or_lost(state, instance):
        return state, refusal
    if not task:
        return state, (("OPEN", state.task) if state.task else ("UNKNOWN",))
    known = state.ledger(task)
    if known.status not in (NEW, FETCHED):
        same = known.submit_id == submit_id or known.status in (ABORTED, REJECTED)
        return state, (known.status or "UNKNOWN" if same or not known.status else "DUPLICATE",)
    if known.lost == submit_id:
        return state, ("RESEND",)
    ref = f"result:{submit_id}"
    results = (*_without(state.results, known.result), ResultEntry("submit_result", task, ref))
    ledger = known._replace(status=SUBMITTED, submit_id=submit_id, epoch=instance.epoch, result=ref)
    return _write(state, task, ledger)._replace(tasks=(), results=results), (SUBMITTED,)


def settle(state: LinkState, instance: Instance, task: str, status: str) -> tuple[LinkState, Reply]:
    if refusal := _fenced_or_lost(state, instance):
        return state, refusal
    known = state.ledger(task)
    if (known.status, status) == (ACCEPTED, REJECTED) and state.kept == known.result:
        state = state._replace(kept="", kept_task="")
    elif known.status != SUBMITTED:
        return state, (known.status or "UNKNOWN",)
    if status == REJECTED:
        state = state._replace(dead=state.dead + 1)
        return _finish(state, task, REJECTED), (REJECTED,)
    state = _write(state, task, known._replace(status=ACCEPTED))
    return state._replace(task="", kept=known.result, kept_task=task), (ACCEPTED,)


def abort(state: LinkState, instance: Instance | None, task: str) -> tuple[LinkState, Reply]:
    if instance is not None and (refusal := _fenced_or_lost(state, instance)):
        return state, refusal
    status = state.ledger(task).status
    if status is None and instance is None:
        return state, ("UNKNOWN",)
    if status is not None and settled(status):
        return state, (status,)
    return _finish(state, task, ABORTED), (ABORTED,)


def beat(state: LinkState, instance: Instance, task: str) -> tuple[LinkState, Reply]:
    if refusal := _fenced_or_lost(state, instance):
        return state, refusal
    peer = state.side("cj" if instance.role == "agent" else "agent")
    over = state.over and state.side(instance.role).closed
    known = state.ledger(task)
    seen = state.task, known.status or "", peer.name, int(peer.closed), known.attempt
    return state._replace(over=over), ("OK", *seen)


def _fenced_or_lost(state: LinkState, instance: Instance) -> Reply | None:
    holder = state.side(instance.role)
    if not holder.name or not instance.epoch:
        return ("LOST",)
    if holder.name == instance.name and holder.epoch == instance.epoch:
        return None
    return ("FENCED",) if holder.epoch > instance.epoch else ("LOST",)


def _finish(state: LinkState, task: str, status: str) -> LinkState:
    known = state.ledger(task)
    state = _write(state, task, known._replace(status=status))
    return state._replace(
        task="" if state.task == task else state.task,
        tasks=tuple(other for other in state.tasks if other != task),
        results=_without(state.results, known.result),
    )


def _write(state: LinkState, task: str, ledger: Ledger) -> LinkState:
    return state._replace(ledgers=tuple(sorted({**dict(state.ledgers), task: ledger}.items())))


def _without(results: tuple[ResultEntry, ...], ref: str) -> tuple[ResultEntry, ...]:
    return tuple(entry for entry in results if entry.ref != ref)
