"""What moves around the link: two agent instances, two CJ instances, the network between, and what can go wrong.

A world is an immutable state; ``moves`` lists what may come next. There is no clock: whatever may happen is listed. So
three things need no state of their own:

- **Wake-ups** (pub/sub messages, a blocked read that returns) only make a client do at once what it does anyway when it
  looks next. Here a client may look at any moment, so all wake-ups lost and all delivered are both among the ways.
- **A lost reply** is a step that changed Redis while its client has not moved: it will run the step again, as the
  unchanged client may. It is allowed at every step, and but for the first hello any number of times.
- **Reading** changes nothing, and a client that reconnects reads from the beginning: an entry may be read any number of
  times, and what was read may be out of date when the client acts on it.

The other faults are moves, and are counted: a copy of a step that reaches Redis when its sender has gone on; a crash;
the replacement of an instance that still runs; a payload that is gone; the loss of all data. A copy does not outlive
the data: its connection ends with the server that held it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, TypeVar

from redflare_broker.scripts.task_states import ACCEPTED, REJECTED

from tests.model import link_model as model
from tests.model.link_clients import ALIVE, Agent, Cj, Option, Step, agent_options, cj_options, stopped
from tests.model.link_model import EMPTY, Answer, Db

TASKS = ("t1", "t2")
T = TypeVar("T")


class Faults(NamedTuple):
    """How many of each kind may still happen."""

    late: int = 0
    #: lost replies to a first hello, after which the process takes a new epoch; all other replies are lost at will
    greetings: int = 0
    crashes: int = 0
    replaced: int = 0
    payloads: int = 0
    losses: int = 0
    #: no fault: tasks that are aborted
    aborts: int = 0


class History(NamedTuple):
    """What happened, for the promises; one place per task of ``TASKS``. No process sees it but for ``outcome``."""

    #: what became of the task, as the workflow above the CJ knows: "", used, aborted, rejected
    outcome: tuple[str, ...] = ("", "")
    #: the result the workflow was given
    used: tuple[str, ...] = ("", "")
    #: the result Redis has accepted, since it last lost its data
    accepted: tuple[str, ...] = ("", "")
    #: how often an agent has begun to work on it
    works: tuple[int, ...] = (0, 0)
    #: letters whose payload is gone
    gone: frozenset[str] = frozenset()
    #: Redis has lost its data, or somebody a payload
    excused: bool = False


class World(NamedTuple):
    """Everything."""

    db: Db = EMPTY
    agents: tuple[Agent, ...] = (Agent("a", "start"), Agent("b"))
    cjs: tuple[Cj, ...] = (Cj("j", "start"), Cj("k"))
    #: a copy of a step that Redis has not seen yet
    late: Step | None = None
    #: payloads stand in their letters and cannot be lost
    small: bool = False
    #: the highest epoch that was ever offered: Redis's clock goes on, whatever Redis forgets
    clock: int = 0
    faults: Faults = Faults()
    history: History = History()


class Move(NamedTuple):
    """One way on."""

    name: str
    world: World
    #: the promises must hold with it and without it
    fault: bool = False
    #: the step that Redis has run, if it has
    step: Step | None = None


def moves(world: World) -> Iterator[Move]:
    """All that may happen next."""
    for agent in world.agents:
        for option in agent_options(agent, world.db):
            yield from _do(world, agent, option)
    wanted = next((task for task, outcome in zip(TASKS, world.history.outcome, strict=True) if not outcome), "")
    for cj in world.cjs:
        for option in cj_options(cj, world.db, wanted, world.history.gone, world.small):
            yield from _do(world, cj, option)
    yield from _faults(world)


def run(db: Db, step: Step, clock: int) -> tuple[Db, Answer]:
    """Run a step on the state in Redis."""
    if step.name == "hello":
        return model.hello(db, step.me, clock + 1)
    return getattr(model, step.name)(db, step.me, *step.args)  # type: ignore[no-any-return]


def _do(world: World, process: Agent | Cj, option: Option) -> Iterator[Move]:
    name = f"{process.name} {option.name}"
    if option.needs in Faults._fields:
        if not getattr(world.faults, option.needs):
            return
        world = _spend(world, option.needs)
    if option.step is None:
        for after in option.after(()):
            yield Move(name, _become(world, process, after), fault=bool(option.needs) and option.needs != "aborts")
        return
    db, answer = run(world.db, option.step, world.clock)
    clock = max(world.clock, int(answer[1])) if answer[0] == "NEXT" else world.clock
    reached = world._replace(db=db, clock=clock, history=_accepted(world.history, world.db, db))
    for after in stopped(process, answer) or option.after(answer):
        yield Move(name, _become(reached, process, after), step=option.step)
    if option.unanswered is not None:
        if world.faults.greetings:
            again = _become(_spend(reached, "greetings"), process, option.unanswered)
            yield Move(f"{name}, its reply is lost", again, fault=True, step=option.step)
    elif db != world.db:
        yield Move(f"{name}, its reply is lost", reached, fault=True, step=option.step)
    if world.late is None and world.faults.late and option.step.name != "beat":
        yield Move(f"{name}, a copy is on its way", _spend(world, "late")._replace(late=option.step), fault=True)


def _faults(world: World) -> Iterator[Move]:
    if world.late is not None:
        db, _ = run(world.db, world.late, world.clock)
        history = _accepted(world.history, world.db, db)
        yield Move(f"late {world.late}", world._replace(db=db, late=None, history=history), fault=True, step=world.late)
    for first, second in (world.agents, world.cjs):
        for process in (first, second):
            if process.phase in ALIVE and world.faults.crashes:
                dead = type(process)(process.name, "dead")
                yield Move(f"{process.name} crashes", _become(_spend(world, "crashes"), process, dead), fault=True)
        if second.phase == "off" and (first.phase not in ALIVE or world.faults.replaced):
            started = Agent(second.name, "start", blank=True) if isinstance(second, Agent) else Cj(second.name, "start")
            spent = _spend(world, "replaced") if first.phase in ALIVE else world
            yield Move(f"{second.name} starts", _become(spent, second, started), fault=True)
    if world.faults.payloads:
        for letter in world.db.results:
            if letter.topic == "submit_result" and letter.ref not in world.history.gone:
                history = world.history._replace(gone=world.history.gone | {letter.ref}, excused=True)
                yield Move(f"{letter.ref} loses its payload", _spend(world, "payloads")._replace(history=history), True)
    if world.faults.losses and world.db != EMPTY:
        history = world.history._replace(accepted=("", ""), excused=True)
        yield Move("Redis loses all data", _spend(world, "losses")._replace(db=EMPTY, late=None, history=history), True)


def _become(world: World, before: Agent | Cj, after: Agent | Cj) -> World:
    """The world after one of its processes went on."""
    history = world.history
    if isinstance(after, Agent):
        if after.phase == "work" and before.phase == "fetch":
            works = _put(history.works, after.task, history.works[TASKS.index(after.task)] + 1)
            history = history._replace(works=works)
        excused = history.excused or after.phase == "refuse"
        agents = tuple(after if agent.name == after.name else agent for agent in world.agents)
        return world._replace(agents=agents, history=history._replace(excused=excused))
    if isinstance(before, Cj) and before.task and after.phase in ("free", "abort"):
        outcome = history.outcome[TASKS.index(before.task)]
        if before.phase == "use":
            history = history._replace(used=_put(history.used, before.task, before.result))
        if not outcome:
            status = world.db.ledger(before.task).status
            outcome = "used" if before.phase == "use" else "rejected" if status == REJECTED else "aborted"
            history = history._replace(outcome=_put(history.outcome, before.task, outcome))
    cjs = tuple(after if cj.name == after.name else cj for cj in world.cjs)
    return world._replace(cjs=cjs, history=history)


def _accepted(history: History, before: Db, after: Db) -> History:
    """Note which results Redis has accepted in a step, and forget those whose payload was found to be gone."""
    if before is after or before.ledgers is after.ledgers:
        return history
    for task in TASKS:
        was, now = before.ledger(task), after.ledger(task)
        if was.status != now.status and ACCEPTED in (was.status, now.status):
            result = now.result if now.status == ACCEPTED else ""
            history = history._replace(accepted=_put(history.accepted, task, result))
    return history


def _spend(world: World, kind: str) -> World:
    return world._replace(faults=world.faults._replace(**{kind: getattr(world.faults, kind) - 1}))


def _put(places: tuple[T, ...], task: str, value: T) -> tuple[T, ...]:
    at = TASKS.index(task)
    return (*places[:at], value, *places[at + 1 :])
