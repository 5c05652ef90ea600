"""All interleavings of two agents, two CJs and two tasks, with faults at any point: the seven promises hold in each.

Each scenario is explored to its end: some 250,000 worlds in all, in less than a minute. Those with more faults are
about one task (the other has been used before), because two tasks follow one another and share nothing but the link.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from redflare_broker.scripts.task_states import ABORTED

from tests.model import link_model as model
from tests.model.link_clients import Agent, Cj
from tests.model.link_model import Answer, Db, Me, Side
from tests.model.link_world import Faults, History, World, moves
from tests.model.promises import broken_by, broken_in, ended, hopeful

#: Both first instances have said hello.
READY = World(
    db=Db(agent=Side("a", 1), cj=Side("j", 2)),
    agents=(Agent("a", "idle", 1), Agent("b")),
    cjs=(Cj("j", "free", 2), Cj("k")),
    clock=2,
    small=True,
)
ONE_TASK = READY._replace(history=History(outcome=("", "used")))
STARTING = ONE_TASK._replace(db=Db(cj=READY.db.cj), agents=(Agent("a", "start"), Agent("b")))

SCENARIOS = {
    "two tasks, two crashes": READY._replace(faults=Faults(crashes=2)),
    "two tasks, a running instance replaced": READY._replace(faults=Faults(replaced=1)),
    "two tasks, a crash and all data lost": READY._replace(faults=Faults(crashes=1, losses=1)),
    "two tasks, one aborted, all data lost": READY._replace(faults=Faults(aborts=1, losses=1)),
    "two tasks, one aborted, a late step": READY._replace(faults=Faults(aborts=1, late=1)),
    "two tasks, two payloads lost": READY._replace(faults=Faults(payloads=2), small=False),
    "a crash and a late step, large payloads": ONE_TASK._replace(faults=Faults(crashes=1, late=1), small=False),
    "a replaced instance and a late step": ONE_TASK._replace(faults=Faults(replaced=1, late=1)),
    "a replaced instance and all data lost": ONE_TASK._replace(faults=Faults(replaced=1, losses=1)),
    "agent and CJ replaced": ONE_TASK._replace(faults=Faults(replaced=2)),
    "a crash and two payloads lost": ONE_TASK._replace(faults=Faults(crashes=1, payloads=2), small=False),
    "all data lost twice, with a crash": ONE_TASK._replace(faults=Faults(crashes=1, losses=2)),
    "two agents start at once": STARTING._replace(faults=Faults(greetings=1, replaced=1)),
}


@dataclass
class Graph:
    """Every world that can be reached from the first."""

    worlds: list[World]
    #: for each world, those that come next without a fault
    onward: list[list[int]] = field(default_factory=list)
    #: for each world but the first, the one it was first reached from, and how
    origins: list[tuple[int, str]] = field(default_factory=lambda: [(0, "")])
    broken: list[str] = field(default_factory=list)

    def story(self, index: int) -> str:
        """The shortest way to a world."""
        names: list[str] = []
        while index:
            index, name = self.origins[index]
            names.append(name)
        return "; ".join(reversed(names))


def explore(start: World, most: int = 100_000) -> Graph:
    """Breadth first, until there is nothing new or a promise is broken; more than ``most`` worlds break one, too."""
    graph, known = Graph([start]), {start: 0}
    with _no_collections():
        for index, world in enumerate(graph.worlds):
            onward: list[int] = []
            for move in moves(world):
                at = known.setdefault(move.world, len(known))
                faults = list(broken_by(world, move))
                if at == len(graph.worlds):
                    graph.worlds.append(move.world)
                    graph.origins.append((index, move.name))
                    faults += broken_in(move.world)
                if not move.fault and at != index:
                    onward.append(at)
                graph.broken += [f"{fault}, by: {graph.story(index)}; {move.name}" for fault in faults]
            graph.onward.append(onward)
            if len(graph.worlds) > most:
                graph.broken.append(f"6: it goes on and on, by: {graph.story(index)}")
            if graph.broken:
                break
    return graph


@contextmanager
def _no_collections() -> Iterator[None]:
    """A graph of some million tuples has no garbage; looking for it takes half the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def stuck(graph: Graph) -> list[str]:
    """The ways to worlds in which an agent and a CJ are up, and some task never ends without further faults."""
    back: list[list[int]] = [[] for _ in graph.worlds]
    for index, onward in enumerate(graph.onward):
        for at in onward:
            back[at].append(index)
    todo = [index for index, world in enumerate(graph.worlds) if ended(world)]
    good = set(todo)
    while todo:
        for index in back[todo.pop()]:
            if index not in good:
                good.add(index)
                todo.append(index)
    return [graph.story(index) for index, world in enumerate(graph.worlds) if hopeful(world) and index not in good]


def circles(graph: Graph) -> int:
    """How many worlds are on, or behind, a circle of moves without a fault: processes that keep each other busy."""
    arrows = [0] * len(graph.worlds)
    for onward in graph.onward:
        for at in onward:
            arrows[at] += 1
    todo = [index for index, count in enumerate(arrows) if not count]
    left = len(graph.worlds)
    while todo:
        left -= 1
        for at in graph.onward[todo.pop()]:
            arrows[at] -= 1
            if not arrows[at]:
                todo.append(at)
    return left


@pytest.mark.parametrize("start", SCENARIOS.values(), ids=SCENARIOS.keys())
def test_the_promises_hold_in_every_interleaving(start: World) -> None:
    graph = explore(start)
    assert not graph.broken
    assert not stuck(graph)
    assert not circles(graph), "without a fault every step leads on, so a fair scheduler is not even needed"
    assert any(world.history.outcome == ("used", "used") for world in graph.worlds)
    assert any(world.db.over for world in graph.worlds), "both sides have left after the last task"
    assert len(graph.worlds) > 1000
    print(f"{len(graph.worlds)} worlds")


Mutant = Callable[..., tuple[Db, Answer]]


def _hello_of_anyone(db: Db, me: Me, now: int) -> tuple[Db, Answer]:
    if not me.epoch:
        return db, ("NEXT", now)
    side = Side(me.name, me.epoch)
    return db._replace(agent=side) if me.role == "agent" else db._replace(cj=side), ("OK", me.epoch)


def _take_by_anyone(db: Db, me: Me, task: str = "") -> tuple[Db, Answer]:
    return TRUE["take"](db, Me("agent", db.agent.name, db.agent.epoch), task)


def _assign_again_whatever_is_there(db: Db, me: Me, task: str, expected: str, lost: str) -> tuple[Db, Answer]:
    return TRUE["assign"](db, me, task, expected, lost and db.ledger(task).result)


def _abort_of_the_known_only(db: Db, me: Me, task: str) -> tuple[Db, Answer]:
    return TRUE["abort"](db, me if db.ledger(task).status else None, task)


def _abort_that_can_be_undone(db: Db, me: Me, task: str, expected: str, lost: str) -> tuple[Db, Answer]:
    if db.ledger(task).status == ABORTED:
        db = db._replace(ledgers=tuple(pair for pair in db.ledgers if pair[0] != task))
    return TRUE["assign"](db, me, task, expected, lost)


def _settle_that_keeps_nothing(db: Db, me: Me, task: str, verdict: str) -> tuple[Db, Answer]:
    db, answer = TRUE["settle"](db, me, task, verdict)
    return db._replace(kept="", kept_task="", results=tuple(x for x in db.results if x.ref != db.kept)), answer


def _refuse_that_piles_up(db: Db, me: Me, task: str, rc: str) -> tuple[Db, Answer]:
    after, answer = TRUE["refuse"](db, me, task, rc)
    return after._replace(results=tuple(dict.fromkeys((*db.results, *after.results)))), answer


def _refuse_in_silence(db: Db, me: Me, task: str, rc: str) -> tuple[Db, Answer]:
    after, answer = TRUE["refuse"](db, me, task, rc)
    return after._replace(results=db.results), answer


def _submit_that_forgets_what_was_lost(db: Db, me: Me, task: str, submit_id: str) -> tuple[Db, Answer]:
    ledgers = tuple((known, ledger._replace(lost="")) for known, ledger in db.ledgers)
    return TRUE["submit"](db._replace(ledgers=ledgers), me, task, submit_id)


TRUE: dict[str, Mutant] = {
    name: getattr(model, name) for name in ("take", "assign", "abort", "settle", "refuse", "submit")
}
MUTANTS: dict[Mutant, tuple[str, Faults]] = {
    _hello_of_anyone: ("hello", Faults(replaced=1, losses=1)),
    _take_by_anyone: ("take", Faults(replaced=1)),
    _assign_again_whatever_is_there: ("assign", Faults(payloads=2, late=1)),
    _abort_of_the_known_only: ("abort", Faults(aborts=1, late=1)),
    _abort_that_can_be_undone: ("assign", Faults(aborts=1, late=1)),
    _settle_that_keeps_nothing: ("settle", Faults(crashes=1)),
    _refuse_that_piles_up: ("refuse", Faults(payloads=1, late=1)),
    _refuse_in_silence: ("refuse", Faults(payloads=1)),
    _submit_that_forgets_what_was_lost: ("submit", Faults(payloads=1)),
}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__.strip("_"))
def test_a_broken_rule_is_found(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    name, faults = MUTANTS[mutant]
    monkeypatch.setattr(model, name, mutant)
    graph = explore(ONE_TASK._replace(faults=faults, small=not faults.payloads), most=20_000)
    assert graph.broken or stuck(graph) or circles(graph)
