"""What an agent and a CJ do on each answer: one immutable state per process, and the options it has in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from redflare_broker.scripts.task_states import ABORTED, ACCEPTED, FETCHED, NEW, REJECTED, SUBMITTED

from tests.model.link_model import Answer, Db, Me

AGENT_PHASES = ("idle", "fetch", "work", "refuse", "submit")
CJ_PHASES = ("free", "assign", "wait", "settle", "use", "abort", "leave")
ALIVE = frozenset(("start", "claim", *AGENT_PHASES, *CJ_PHASES))


class Step(NamedTuple):
    """A script that is sent: its name, who sends it, its arguments."""

    name: str
    me: Me
    args: tuple[str, ...] = ()


class Agent(NamedTuple):
    """An agent process. Phases: off, start, claim, those of ``AGENT_PHASES``, closed, dead."""

    name: str
    phase: str = "off"
    epoch: int = 0
    task: str = ""
    submit_id: str = ""
    #: results made so far; numbers the submit ids
    made: int = 0
    #: has taken nothing yet: it may hand in what its predecessor has worked out, without a task id
    blank: bool = False
    #: Redis has forgotten it
    lost: bool = False


class Cj(NamedTuple):
    """A CJ process. Phases: off, start, claim, those of ``CJ_PHASES``, closed, dead."""

    name: str
    phase: str = "off"
    epoch: int = 0
    task: str = ""
    expected: str = ""
    #: the letter in results whose payload is gone
    gone: str = ""
    #: the letter in results that is in hand
    result: str = ""
    lost: bool = False


class Option(NamedTuple):
    """Something a process may do next: run a step, or move on by itself; and what it is after each answer."""

    name: str
    step: Step | None
    #: the process's next states, one of which comes
    after: Callable[[Answer], tuple[Agent | Cj, ...]]
    #: the process when the reply is lost; None: as it was
    unanswered: Agent | Cj | None = None
    #: what has to go wrong, or be wanted, for it
    needs: str = ""


def agent_options(agent: Agent, db: Db) -> Iterator[Option]:
    """All an agent may do in its state. It reads the stream of tasks, hence ``db``."""
    me = Me("agent", agent.name, agent.epoch)

    def idle(answer: Answer) -> tuple[Agent, ...]:
        return (agent._replace(phase="idle", task="", submit_id=""),)

    def same(answer: Answer) -> tuple[Agent, ...]:
        return (agent,)

    if agent.lost or agent.phase in ("start", "claim"):
        yield _hello(agent, me, "idle")
    elif agent.phase == "idle":
        for task in db.tasks:
            yield Option("reads", None, lambda _: (agent._replace(phase="fetch", task=task),))  # noqa: B023
        if agent.blank:
            yield Option("submits without id", Step("submit", me, ("", "")), _blank(agent))
        if db.cj.closed:
            yield Option("leaves", Step("bye", me), lambda _: (agent._replace(phase="closed"),))
        yield Option("beats", Step("beat", me, ("",)), same)
        # its read has ended without an entry, and the take that was sent along with it is run
        yield Option("takes what it has not read", Step("take", me), same)
    elif agent.phase == "fetch":

        def taken(answer: Answer) -> tuple[Agent, ...]:
            return (agent._replace(phase="work", blank=False),) if answer[:2] == (FETCHED, agent.task) else idle(answer)

        yield Option("takes", Step("take", me), taken)
    elif agent.phase == "work":
        yield Option("finishes", None, lambda _: (_with_result(agent),))
        yield Option("finds no payload", None, lambda _: (agent._replace(phase="refuse"),), needs="payloads")
        yield Option(
            "beats", Step("beat", me, (agent.task,)), lambda said: (idle if said[2] == ABORTED else same)(said)
        )
    elif agent.phase == "refuse":
        yield Option("refuses", Step("refuse", me, (agent.task, "BLOB_MISSING")), idle)
    elif agent.phase == "submit":

        def told(answer: Answer) -> tuple[Agent, ...]:
            if answer[0] == SUBMITTED:
                return (agent,)
            if answer[0] == "RESEND":
                return (_with_result(agent),)
            return (agent, *idle(answer)) if answer[0] == "UNKNOWN" else idle(answer)

        yield Option("submits", Step("submit", me, (agent.task, agent.submit_id)), told)
        if db.ledger(agent.task).status == NEW:
            yield Option("takes again", Step("take", me, (agent.task,)), same)


def cj_options(cj: Cj, db: Db, wanted: str, gone: frozenset[str], small: bool) -> Iterator[Option]:
    """All a CJ may do in its state. It reads the stream of results, hence ``db``.

    Args:
        wanted: the task the workflow above wants next, "" for none.
        gone: the letters whose payload is not there when one reads it.
        small: payloads stand in their letters, and are accepted unread.
    """
    me = Me("cj", cj.name, cj.epoch)

    def free(answer: Answer) -> tuple[Cj, ...]:
        return (Cj(cj.name, "free", cj.epoch),)

    def have(phase: str, ref: str) -> tuple[Cj, ...]:
        there = ref not in gone and any(letter.ref == ref and letter.topic == "submit_result" for letter in db.results)
        return (cj._replace(phase=phase, result=ref) if there else _assigning(cj, gone=ref),)

    if cj.lost or cj.phase in ("start", "claim"):
        yield _hello(cj, me, "free")
    elif cj.phase == "free":
        yield Option("goes on", None, lambda _: (cj._replace(phase="assign" if wanted else "leave", task=wanted),))
        yield Option("beats", Step("beat", me, ("",)), lambda _: (cj,))
    elif cj.phase == "assign":

        def assigned(answer: Answer) -> tuple[Cj, ...]:
            word, rest = answer[0], str(answer[1])
            if word == "BUSY":
                return (cj._replace(expected=rest),)
            if word == ACCEPTED:
                return have("use", rest)
            return free(answer) if word in (REJECTED, ABORTED) else (Cj(cj.name, "wait", cj.epoch, cj.task),)

        yield Option("assigns", Step("assign", me, (cj.task, cj.expected, cj.gone)), assigned)
    elif cj.phase == "wait":
        for letter in db.results:
            if letter.task == cj.task:
                yield Option("reads", None, lambda _: have("settle", letter.ref))  # noqa: B023
        if small:
            # it is sent along with the read, and run when that ends, with or without a letter
            yield Option("accepts unread", Step("settle", me, (cj.task, ACCEPTED)), lambda _: (cj,))
        yield Option("begins again", None, lambda _: (_assigning(cj),), needs="an outage")
        yield Option("beats", Step("beat", me, (cj.task,)), lambda said: free(said) if said[2] == ABORTED else (cj,))
    elif cj.phase == "settle":

        def settled(answer: Answer) -> tuple[Cj, ...]:
            if answer[0] == ACCEPTED:
                return (cj._replace(phase="use"),)
            return free(answer) if answer[0] in (REJECTED, ABORTED) else (_assigning(cj),)

        yield Option("settles", Step("settle", me, (cj.task, ACCEPTED)), settled)
    elif cj.phase == "use":
        yield Option("uses", None, free)
    elif cj.phase == "abort":
        yield Option("aborts", Step("abort", me, (cj.task,)), free)
    elif cj.phase == "leave":
        yield Option("leaves", Step("bye", me), lambda _: (cj._replace(phase="closed"),))
    if cj.phase in ("assign", "wait", "settle"):
        yield Option("is told to abort", None, lambda _: (cj._replace(phase="abort"),), needs="aborts")


def stopped(process: Agent | Cj, answer: Answer) -> tuple[Agent | Cj, ...]:
    """The process after FENCED or LOST, which mean the same whatever the step was; else none."""
    if answer[0] == "FENCED":
        return (process._replace(phase="closed"),)
    if answer[0] == "LOST":
        return (process._replace(lost=True),)
    return ()


def _hello(process: Agent | Cj, me: Me, ready: str) -> Option:
    def greeted(answer: Answer) -> tuple[Agent | Cj, ...]:
        if answer[0] == "NEXT":
            return (process._replace(phase="claim", epoch=int(answer[1])),)
        if not process.lost:
            return (process._replace(phase=ready, epoch=int(answer[1])),)
        if process.phase in ("wait", "settle"):
            return (_assigning(process),)  # type: ignore[arg-type]
        return (process._replace(lost=False),)

    unanswered = process._replace(phase="start", epoch=0) if process.phase == "claim" else None
    return Option("says hello", Step("hello", me), greeted, unanswered)


def _assigning(cj: Cj, gone: str = "") -> Cj:
    return Cj(cj.name, "assign", cj.epoch, cj.task, gone=gone)


def _with_result(agent: Agent) -> Agent:
    return agent._replace(phase="submit", submit_id=f"{agent.name}{agent.made}", made=agent.made + 1, blank=False)


def _blank(agent: Agent) -> Callable[[Answer], tuple[Agent, ...]]:
    def told(answer: Answer) -> tuple[Agent, ...]:
        return (_with_result(agent._replace(task=str(answer[1]))),) if answer[0] == "OPEN" else (agent,)

    return told
