"""What an agent and a CJ do on each reply: one immutable state per process, and the options it has in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from redflare_broker.scripts.task_states import ABORTED, ACCEPTED, FETCHED, NEW, REJECTED, SUBMITTED

from tests.model.link_model import Instance, LinkState, Reply

AGENT_PHASES = ("idle", "fetch", "work", "refuse", "submit")
CJ_PHASES = ("free", "assign", "wait", "settle", "use", "abort", "leave")
ALIVE = frozenset(("start", "claim", *AGENT_PHASES, *CJ_PHASES))


class Step(NamedTuple):
    """A script that is sent: its name, who sends it, its arguments."""

    name: str
    instance: Instance
    args: tuple[str, ...] = ()


class Agent(NamedTuple):
    """An agent process. Phases: off, start, claim, those of ``AGENT_PHASES``, closed, dead."""

    name: str
    phase: str = "off"
    epoch: int = 0
    task: str = ""
    submit_id: str = ""
    #: number of results so far; numbers the submit ids
    made: int = 0
    #: has taken no task yet: it may submit a result of its predecessor, without a task id
    blank: bool = False
    #: Redis has lost its registration
    lost: bool = False


class CJ(NamedTuple):
    """A CJ process. Phases: off, start, claim, those of ``CJ_PHASES``, closed, dead."""

    name: str
    phase: str = "off"
    epoch: int = 0
    task: str = ""
    expected: str = ""
    #: the entry in results whose payload is gone
    gone: str = ""
    #: the entry in results that it has read
    result: str = ""
    lost: bool = False


class Option(NamedTuple):
    """Something a process may do next: run a step, or change its phase by itself; and its states after each reply."""

    name: str
    step: Step | None
    #: the possible next states of the process
    after: Callable[[Reply], tuple[Agent | CJ, ...]]
    #: the process when the reply is lost; None: unchanged
    reply_lost: Agent | CJ | None = None
    #: the fault or the abort that it needs
    needs: str = ""


def agent_options(agent: Agent, link: LinkState) -> Iterator[Option]:
    """All an agent may do in its state. It reads the stream of tasks, hence ``link``."""
    instance = Instance("agent", agent.name, agent.epoch)

    def idle(reply: Reply) -> tuple[Agent, ...]:
        return (agent._replace(phase="idle", task="", submit_id=""),)

    def unchanged(reply: Reply) -> tuple[Agent, ...]:
        return (agent,)

    if agent.lost or agent.phase in ("start", "claim"):
        yield _hello_option(agent, instance, "idle")
    elif agent.phase == "idle":
        for task in link.tasks:
            yield Option("reads", None, lambda _: (agent._replace(phase="fetch", task=task),))  # noqa: B023
        if agent.blank:
            yield Option("submits without id", Step("submit", instance, ("", "")), _submit_without_id(agent))
        if link.cj.closed:
            yield Option("leaves", Step("bye", instance), lambda _: (agent._replace(phase="closed"),))
        yield Option("beats", Step("beat", instance, ("",)), unchanged)
    elif agent.phase == "fetch":

        def taken(reply: Reply) -> tuple[Agent, ...]:
            return (agent._replace(phase="work", blank=False),) if reply[0] == FETCHED else idle(reply)

        yield Option("takes", Step("take", instance, (agent.task,)), taken)
    elif agent.phase == "work":
        yield Option("finishes", None, lambda _: (_with_result(agent),))
        yield Option("finds no payload", None, lambda _: (agent._replace(phase="refuse"),), needs="lost_payloads")
        yield Option(
            "beats",
            Step("beat", instance, (agent.task,)),
            lambda reply: (idle if reply[2] == ABORTED else unchanged)(reply),
        )
    elif agent.phase == "refuse":
        yield Option("refuses", Step("refuse", instance, (agent.task, "BLOB_MISSING")), idle)
    elif agent.phase == "submit":

        def submitted(reply: Reply) -> tuple[Agent, ...]:
            if reply[0] == SUBMITTED:
                return (agent,)
            if reply[0] == "RESEND":
                return (_with_result(agent),)
            return (agent, *idle(reply)) if reply[0] == "UNKNOWN" else idle(reply)

        yield Option("submits", Step("submit", instance, (agent.task, agent.submit_id)), submitted)
        if link.ledger(agent.task).status == NEW:
            yield Option("takes again", Step("take", instance, (agent.task,)), unchanged)


def cj_options(cj: CJ, link: LinkState, wanted: str, gone: frozenset[str], inline: bool) -> Iterator[Option]:
    """All a CJ may do in its state. It reads the stream of results, hence ``link``.

    Args:
        wanted: the next task of the workflow, "" for none.
        gone: the entries whose payload is lost.
        inline: payloads are part of their entries, and are accepted unread.
    """
    instance = Instance("cj", cj.name, cj.epoch)

    def free(reply: Reply) -> tuple[CJ, ...]:
        return (CJ(cj.name, "free", cj.epoch),)

    def read(phase: str, ref: str) -> tuple[CJ, ...]:
        available = ref not in gone and any(
            entry.ref == ref and entry.topic == "submit_result" for entry in link.results
        )
        return (cj._replace(phase=phase, result=ref) if available else _assigning(cj, gone=ref),)

    if cj.lost or cj.phase in ("start", "claim"):
        yield _hello_option(cj, instance, "free")
    elif cj.phase == "free":
        yield Option("goes on", None, lambda _: (cj._replace(phase="assign" if wanted else "leave", task=wanted),))
        yield Option("beats", Step("beat", instance, ("",)), lambda _: (cj,))
    elif cj.phase == "assign":

        def assigned(reply: Reply) -> tuple[CJ, ...]:
            status, rest = reply[0], str(reply[1])
            if status == "BUSY":
                return (cj._replace(expected=rest),)
            if status == ACCEPTED:
                return read("use", rest)
            return free(reply) if status in (REJECTED, ABORTED) else (CJ(cj.name, "wait", cj.epoch, cj.task),)

        yield Option("assigns", Step("assign", instance, (cj.task, cj.expected, cj.gone)), assigned)
    elif cj.phase == "wait":
        for entry in link.results:
            if entry.task == cj.task:
                yield Option("reads", None, lambda _: read("settle", entry.ref))  # noqa: B023
        if inline:
            # the command is pipelined behind the read, and run whether that returns an entry or not
            yield Option("accepts unread", Step("settle", instance, (cj.task, ACCEPTED)), lambda _: (cj,))
        yield Option("begins again", None, lambda _: (_assigning(cj),), needs="an outage")
        yield Option(
            "beats", Step("beat", instance, (cj.task,)), lambda reply: free(reply) if reply[2] == ABORTED else (cj,)
        )
    elif cj.phase == "settle":

        def settled(reply: Reply) -> tuple[CJ, ...]:
            if reply[0] == ACCEPTED:
                return (cj._replace(phase="use"),)
            return free(reply) if reply[0] in (REJECTED, ABORTED) else (_assigning(cj),)

        yield Option("settles", Step("settle", instance, (cj.task, ACCEPTED)), settled)
    elif cj.phase == "use":
        yield Option("uses", None, free)
    elif cj.phase == "abort":
        yield Option("aborts", Step("abort", instance, (cj.task,)), free)
    elif cj.phase == "leave":
        yield Option("leaves", Step("bye", instance), lambda _: (cj._replace(phase="closed"),))
    if cj.phase in ("assign", "wait", "settle"):
        yield Option("is asked to abort", None, lambda _: (cj._replace(phase="abort"),), needs="aborts")


def stopped(process: Agent | CJ, reply: Reply) -> tuple[Agent | CJ, ...]:
    """The process after FENCED or LOST, which mean the same for every step; else none."""
    if reply[0] == "FENCED":
        return (process._replace(phase="closed"),)
    if reply[0] == "LOST":
        return (process._replace(lost=True),)
    return ()


def _hello_option(process: Agent | CJ, instance: Instance, ready: str) -> Option:
    def replied(reply: Reply) -> tuple[Agent | CJ, ...]:
        if reply[0] == "NEXT":
            return (process._replace(phase="claim", epoch=int(reply[1])),)
        if not process.lost:
            return (process._replace(phase=ready, epoch=int(reply[1])),)
        if process.phase in ("wait", "settle"):
            return (_assigning(process),)  # type: ignore[arg-type]
        return (process._replace(lost=False),)

    reply_lost = process._replace(phase="start", epoch=0) if process.phase == "claim" else None
    return Option("says hello", Step("hello", instance), replied, reply_lost)


def _assigning(cj: CJ, gone: str = "") -> CJ:
    return CJ(cj.name, "assign", cj.epoch, cj.task, gone=gone)


def _with_result(agent: Agent) -> Agent:
    return agent._replace(phase="submit", submit_id=f"{agent.name}{agent.made}", made=agent.made + 1, blank=False)


def _submit_without_id(agent: Agent) -> Callable[[Reply], tuple[Agent, ...]]:
    def replied(reply: Reply) -> tuple[Agent, ...]:
        return (_with_result(agent._replace(task=str(reply[1]))),) if reply[0] == "OPEN" else (agent,)

    return replied
