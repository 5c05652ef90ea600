"""The link as it stands in Redis, in pure Python: immutable states, and one function for each Lua script.

A step takes the state and returns the next one with the answer; it is the specification of the script of the same name,
and ``test_scripts_match_model.py`` runs the two side by side. Left out is what no step decides on: times, sizes, names.
Entry ids are words that say what the entry is: ``refused:t1:2`` is the refusal of t1 at its second attempt,
``result:s1`` the result with the submit id s1. A stream of tasks holds task ids alone.
"""

from __future__ import annotations

from typing import NamedTuple

from redflare_broker.scripts.task_states import ABORTED, ACCEPTED, FETCHED, NEW, REJECTED, SUBMITTED, settled

Answer = tuple[str | int, ...]


class Me(NamedTuple):
    """Who runs a step."""

    role: str
    name: str
    epoch: int


class Side(NamedTuple):
    """One side of the link."""

    name: str = ""
    epoch: int = 0
    closed: bool = False


class Ledger(NamedTuple):
    """What Redis knows of a task; status None: nothing."""

    status: str | None = None
    attempt: int = 0
    #: of the agent that took it, or handed its result in
    epoch: int = 0
    submit_id: str = ""
    #: submit id of a result whose payload is gone
    lost: str = ""
    #: id of the answer in results, also after it went from there
    result: str = ""


class Letter(NamedTuple):
    """An entry of the stream of results."""

    topic: str
    task: str
    ref: str


class Db(NamedTuple):
    """All keys of a link."""

    agent: Side = Side()
    cj: Side = Side()
    #: the open task
    task: str = ""
    #: the answer to a settled task that still stands in results, and that task
    kept: str = ""
    kept_task: str = ""
    ledgers: tuple[tuple[str, Ledger], ...] = ()
    tasks: tuple[str, ...] = ()
    results: tuple[Letter, ...] = ()
    dead: int = 0
    #: both sides have left and nothing is open: the keys live as long as a settled ledger
    over: bool = False

    def ledger(self, task: str) -> Ledger:
        for known, ledger in self.ledgers:
            if known == task:
                return ledger
        return _UNKNOWN

    def side(self, role: str) -> Side:
        return self.agent if role == "agent" else self.cj


EMPTY = Db()
_UNKNOWN = Ledger()


def hello(db: Db, me: Me, now: int) -> tuple[Db, Answer]:
    held = db.side(me.role)
    if held.name == me.name and held.epoch >= me.epoch:
        return db, ("OK", held.epoch)
    if me.epoch == 0:
        return db, ("NEXT", max(held.epoch + 1, now))
    if held.epoch >= me.epoch:
        return db, ("FENCED", held.epoch)
    side = Side(me.name, me.epoch)
    db = db._replace(agent=side) if me.role == "agent" else db._replace(cj=side)
    return db._replace(over=False), ("OK", me.epoch)


def bye(db: Db, me: Me) -> tuple[Db, Answer]:
    if held := _standing(db, me):
        return db, held
    if db.side(me.role).closed:
        return db, ("OK",)
    if me.role == "agent":
        db = db._replace(agent=db.agent._replace(closed=True))
    else:
        results = _without(db.results, db.kept)
        db = db._replace(cj=db.cj._replace(closed=True), kept="", kept_task="", results=results)
    over = db.cj.closed and (db.agent.closed or not db.agent.name) and not db.task
    return db._replace(over=over), ("OK",)


def assign(db: Db, me: Me, task: str, expected: str = "", lost: str = "") -> tuple[Db, Answer]:
    if held := _standing(db, me):
        return db, held
    known = db.ledger(task)
    if known.status and (known.status in (ABORTED, REJECTED) or not lost or lost != known.result):
        return db, (known.status, known.result)
    if db.task not in ("", task):
        if db.task != expected:
            return db, ("BUSY", db.task)
        db = _finish(db, db.task, ABORTED)
    results = _without(_without(db.results, known.result), db.kept)
    ledger = Ledger(NEW, known.attempt, known.epoch, lost=known.submit_id or known.lost)
    db = _write(db, task, ledger)
    return db._replace(task=task, tasks=(task,), results=results, kept="", kept_task=""), (NEW, "")


def take(db: Db, me: Me, task: str = "") -> tuple[Db, Answer]:
    if held := _standing(db, me):
        return db, held
    known = db.ledger(db.task)
    if not known.status or task not in ("", db.task):
        return db, ("NONE",)
    if known.status == SUBMITTED:
        return db, (SUBMITTED, db.task)
    if known.status == NEW or known.epoch != me.epoch:
        known = known._replace(status=FETCHED, epoch=me.epoch, attempt=known.attempt + 1)
    return _write(db, db.task, known), (FETCHED, db.task, known.attempt)


def refuse(db: Db, me: Me, task: str, rc: str) -> tuple[Db, Answer]:
    if held := _standing(db, me):
        return db, held
    known = db.ledger(task)
    if known.status != FETCHED or known.epoch != me.epoch:
        return db, (known.status or "GONE",)
    ref = f"refused:{task}:{known.attempt}"
    letters = (*_without(db.results, known.result), Letter("get_task", task, ref))
    again = rc == "BLOB_MISSING"
    if again:
        db = _write(db, task, known._replace(status=NEW, result=ref))
        return db._replace(tasks=(), results=letters), (NEW,)
    db = db._replace(dead=db.dead + (task in db.tasks))
    db = _write(_finish(db, task, REJECTED), task, known._replace(status=REJECTED, result=ref))
    return db._replace(results=letters, kept=ref, kept_task=task), (REJECTED,)


def submit(db: Db, me: Me, task: str, submit_id: str) -> tuple[Db, Answer]:
    if held := _standing(db, me):
        return db, held
    if not task:
        return db, (("OPEN", db.task) if db.task else ("UNKNOWN",))
    known = db.ledger(task)
    if known.status not in (NEW, FETCHED):
        same = known.submit_id == submit_id or known.status in (ABORTED, REJECTED)
        return db, (known.status or "UNKNOWN" if same or not known.status else "DUPLICATE",)
    if known.lost == submit_id:
        return db, ("RESEND",)
    ref = f"result:{submit_id}"
    results = (*_without(db.results, known.result), Letter("submit_result", task, ref))
    ledger = known._replace(status=SUBMITTED, submit_id=submit_id, epoch=me.epoch, result=ref)
    return _write(db, task, ledger)._replace(tasks=(), results=results), (SUBMITTED,)


def settle(db: Db, me: Me, task: str, verdict: str) -> tuple[Db, Answer]:
    if held := _standing(db, me):
        return db, held
    known = db.ledger(task)
    if (known.status, verdict) == (ACCEPTED, REJECTED) and db.kept == known.result:
        db = db._replace(kept="", kept_task="")
    elif known.status != SUBMITTED:
        return db, (known.status or "UNKNOWN",)
    if verdict == REJECTED:
        db = db._replace(dead=db.dead + 1)
        return _finish(db, task, REJECTED), (REJECTED,)
    db = _write(db, task, known._replace(status=ACCEPTED))
    return db._replace(task="", kept=known.result, kept_task=task), (ACCEPTED,)


def abort(db: Db, me: Me | None, task: str) -> tuple[Db, Answer]:
    if me is not None and (held := _standing(db, me)):
        return db, held
    status = db.ledger(task).status
    if status is None and me is None:
        return db, ("UNKNOWN",)
    if status is not None and settled(status):
        return db, (status,)
    return _finish(db, task, ABORTED), (ABORTED,)


def beat(db: Db, me: Me, task: str) -> tuple[Db, Answer]:
    if held := _standing(db, me):
        return db, held
    peer = db.side("cj" if me.role == "agent" else "agent")
    over = db.over and db.side(me.role).closed
    return db._replace(over=over), ("OK", db.task, db.ledger(task).status or "", peer.name, int(peer.closed))


def _standing(db: Db, me: Me) -> Answer | None:
    held = db.side(me.role)
    if not held.name or not me.epoch:
        return ("LOST",)
    if held.name == me.name and held.epoch == me.epoch:
        return None
    return ("FENCED",) if held.epoch > me.epoch else ("LOST",)


def _finish(db: Db, task: str, status: str) -> Db:
    known = db.ledger(task)
    db = _write(db, task, known._replace(status=status))
    return db._replace(
        task="" if db.task == task else db.task,
        tasks=tuple(other for other in db.tasks if other != task),
        results=_without(db.results, known.result),
    )


def _write(db: Db, task: str, ledger: Ledger) -> Db:
    return db._replace(ledgers=tuple(sorted({**dict(db.ledgers), task: ledger}.items())))


def _without(results: tuple[Letter, ...], ref: str) -> tuple[Letter, ...]:
    return tuple(letter for letter in results if letter.ref != ref)
