"""The system around the link: two agent instances, two CJ instances, the network between them, and faults.

A state is immutable; ``transitions`` lists all that may happen next. There is no clock. So three things need no state:

- **Wake-ups** (pub/sub messages, a blocked read that returns) only make a client do at once what it does anyway at its
  next poll. Here a client may poll at any moment, so both lost and delivered wake-ups are covered.
- **A lost reply** is a step that changed Redis while its client is unchanged, and so may run the step again.
  It may happen at every step, and any number of times, except at the first hello.
- **Reading** changes nothing, and a client that reconnects reads from the beginning: an entry may be read any number of
  times, and what was read may be out of date when the client acts on it.

The other faults are transitions, and are counted: a copy of a step that reaches Redis after its sender has gone on; a
crash; the replacement of an instance that still runs; the loss of a payload; the loss of all data. A copy does not
outlive the data: its connection ends with the server that held it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, TypeVar

from redflare_broker.scripts.task_states import ACCEPTED, REJECTED

from tests.model import link_model as model
from tests.model.link_clients import ALIVE, CJ, Agent, Option, Step, agent_options, cj_options, stopped
from tests.model.link_model import EMPTY, LinkState, Reply

TASKS = ("t1", "t2")
T = TypeVar("T")


class Faults(NamedTuple):
    """How many of each kind may still happen."""

    late_copies: int = 0
    #: lost replies to a first hello, after which the process takes a new epoch; all other replies are lost at will
    lost_hellos: int = 0
    crashes: int = 0
    replacements: int = 0
    lost_payloads: int = 0
    data_losses: int = 0
    #: no fault: tasks that are aborted
    aborts: int = 0


class History(NamedTuple):
    """What happened, for the promises; one place per task of ``TASKS``. No process sees it but for ``outcome``."""

    #: the outcome of the task that the workflow knows: "", used, aborted, rejected
    outcome: tuple[str, ...] = ("", "")
    #: the result the workflow was given
    used: tuple[str, ...] = ("", "")
    #: the result Redis has accepted, since it last lost its data
    accepted: tuple[str, ...] = ("", "")
    #: how often an agent has begun to execute it
    executions: tuple[int, ...] = (0, 0)
    #: entries whose payload is gone
    gone: frozenset[str] = frozenset()
    #: Redis has lost all data, or a payload
    excused: bool = False


class SystemState(NamedTuple):
    """The link, the processes, what is under way between them, and what has happened."""

    link: LinkState = EMPTY
    agents: tuple[Agent, ...] = (Agent("a", "start"), Agent("b"))
    cjs: tuple[CJ, ...] = (CJ("j", "start"), CJ("k"))
    #: a copy of a step that Redis has not seen yet
    late_copy: Step | None = None
    #: payloads are part of their entries and cannot be lost
    inline: bool = False
    #: the highest epoch ever offered: the clock of Redis goes on when its data is lost
    clock: int = 0
    faults: Faults = Faults()
    history: History = History()


class Transition(NamedTuple):
    """A change from one state to the next."""

    name: str
    state: SystemState
    #: the promises must hold with it and without it
    fault: bool = False
    #: the step that Redis has run, if any
    step: Step | None = None


def transitions(system: SystemState) -> Iterator[Transition]:
    """All that may happen next."""
    for agent in system.agents:
        for option in agent_options(agent, system.link):
            yield from _apply(system, agent, option)
    wanted = next((task for task, outcome in zip(TASKS, system.history.outcome, strict=True) if not outcome), "")
    for cj in system.cjs:
        for option in cj_options(cj, system.link, wanted, system.history.gone, system.inline):
            yield from _apply(system, cj, option)
    yield from _faults(system)


def run(link: LinkState, step: Step, clock: int) -> tuple[LinkState, Reply]:
    """Run a step on the state in Redis."""
    if step.name == "hello":
        return model.hello(link, step.instance, clock + 1)
    return getattr(model, step.name)(link, step.instance, *step.args)  # type: ignore[no-any-return]


def _apply(system: SystemState, process: Agent | CJ, option: Option) -> Iterator[Transition]:
    name = f"{process.name} {option.name}"
    if option.needs in Faults._fields:
        if not getattr(system.faults, option.needs):
            return
        system = _spend(system, option.needs)
    if option.step is None:
        for after in option.after(()):
            yield Transition(
                name, _with_process(system, process, after), fault=bool(option.needs) and option.needs != "aborts"
            )
        return
    link, reply = run(system.link, option.step, system.clock)
    clock = max(system.clock, int(reply[1])) if reply[0] == "NEXT" else system.clock
    reached = system._replace(link=link, clock=clock, history=_accepted(system.history, system.link, link))
    for after in stopped(process, reply) or option.after(reply):
        yield Transition(name, _with_process(reached, process, after), step=option.step)
    if option.reply_lost is not None:
        if system.faults.lost_hellos:
            again = _with_process(_spend(reached, "lost_hellos"), process, option.reply_lost)
            yield Transition(f"{name}, its reply is lost", again, fault=True, step=option.step)
    elif link != system.link:
        yield Transition(f"{name}, its reply is lost", reached, fault=True, step=option.step)
    if system.late_copy is None and system.faults.late_copies and option.step.name != "beat":
        yield Transition(
            f"{name}, a copy is on its way", _spend(system, "late_copies")._replace(late_copy=option.step), fault=True
        )


def _faults(system: SystemState) -> Iterator[Transition]:
    if system.late_copy is not None:
        link, _ = run(system.link, system.late_copy, system.clock)
        history = _accepted(system.history, system.link, link)
        yield Transition(
            f"late {system.late_copy}",
            system._replace(link=link, late_copy=None, history=history),
            fault=True,
            step=system.late_copy,
        )
    for first, second in (system.agents, system.cjs):
        for process in (first, second):
            if process.phase in ALIVE and system.faults.crashes:
                dead = type(process)(process.name, "dead")
                yield Transition(
                    f"{process.name} crashes", _with_process(_spend(system, "crashes"), process, dead), fault=True
                )
        if second.phase == "off" and (first.phase not in ALIVE or system.faults.replacements):
            started = Agent(second.name, "start", blank=True) if isinstance(second, Agent) else CJ(second.name, "start")
            spent = _spend(system, "replacements") if first.phase in ALIVE else system
            yield Transition(f"{second.name} starts", _with_process(spent, second, started), fault=True)
    if system.faults.lost_payloads:
        for entry in system.link.results:
            if entry.topic == "submit_result" and entry.ref not in system.history.gone:
                history = system.history._replace(gone=system.history.gone | {entry.ref}, excused=True)
                yield Transition(
                    f"{entry.ref} loses its payload", _spend(system, "lost_payloads")._replace(history=history), True
                )
    if system.faults.data_losses and system.link != EMPTY:
        history = system.history._replace(accepted=("", ""), excused=True)
        yield Transition(
            "Redis loses all data",
            _spend(system, "data_losses")._replace(link=EMPTY, late_copy=None, history=history),
            True,
        )


def _with_process(system: SystemState, before: Agent | CJ, after: Agent | CJ) -> SystemState:
    """The state after one of its processes went on."""
    history = system.history
    if isinstance(after, Agent):
        if after.phase == "work" and before.phase == "fetch":
            executions = _put(history.executions, after.task, history.executions[TASKS.index(after.task)] + 1)
            history = history._replace(executions=executions)
        excused = history.excused or after.phase == "refuse"
        agents = tuple(after if agent.name == after.name else agent for agent in system.agents)
        return system._replace(agents=agents, history=history._replace(excused=excused))
    if isinstance(before, CJ) and before.task and after.phase in ("free", "abort"):
        outcome = history.outcome[TASKS.index(before.task)]
        if before.phase == "use":
            history = history._replace(used=_put(history.used, before.task, before.result))
        if not outcome:
            status = system.link.ledger(before.task).status
            outcome = "used" if before.phase == "use" else "rejected" if status == REJECTED else "aborted"
            history = history._replace(outcome=_put(history.outcome, before.task, outcome))
    cjs = tuple(after if cj.name == after.name else cj for cj in system.cjs)
    return system._replace(cjs=cjs, history=history)


def _accepted(history: History, before: LinkState, after: LinkState) -> History:
    """Note which results Redis has accepted in a step, and drop those whose payload was lost."""
    if before is after or before.ledgers is after.ledgers:
        return history
    for task in TASKS:
        was, now = before.ledger(task), after.ledger(task)
        if was.status != now.status and ACCEPTED in (was.status, now.status):
            result = now.result if now.status == ACCEPTED else ""
            history = history._replace(accepted=_put(history.accepted, task, result))
    return history


def _spend(system: SystemState, kind: str) -> SystemState:
    return system._replace(faults=system.faults._replace(**{kind: getattr(system.faults, kind) - 1}))


def _put(places: tuple[T, ...], task: str, value: T) -> tuple[T, ...]:
    at = TASKS.index(task)
    return (*places[:at], value, *places[at + 1 :])
