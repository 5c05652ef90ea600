"""All interleavings of two agents, two CJs and two tasks, with faults at any point: the seven promises hold in each.

Each scenario is explored completely: some 250,000 states in all, in less than a minute. Those with more faults are
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
from tests.model.link_clients import CJ, Agent
from tests.model.link_model import Instance, LinkState, Reply, Side
from tests.model.promises import broken_by, broken_in, can_finish, ended
from tests.model.system_state import Faults, History, SystemState, transitions

#: Both first instances have reply hello.
READY = SystemState(
    link=LinkState(agent=Side("a", 1), cj=Side("j", 2)),
    agents=(Agent("a", "idle", 1), Agent("b")),
    cjs=(CJ("j", "free", 2), CJ("k")),
    clock=2,
    inline=True,
)
ONE_TASK = READY._replace(history=History(outcome=("", "used")))
STARTING = ONE_TASK._replace(link=LinkState(cj=READY.link.cj), agents=(Agent("a", "start"), Agent("b")))

SCENARIOS = {
    "two tasks, two crashes": READY._replace(faults=Faults(crashes=2)),
    "two tasks, a running instance replaced": READY._replace(faults=Faults(replacements=1)),
    "two tasks, a crash and all data lost": READY._replace(faults=Faults(crashes=1, data_losses=1)),
    "two tasks, one aborted, all data lost": READY._replace(faults=Faults(aborts=1, data_losses=1)),
    "two tasks, one aborted, a late step": READY._replace(faults=Faults(aborts=1, late_copies=1)),
    "two tasks, two payloads lost": READY._replace(faults=Faults(lost_payloads=2), inline=False),
    "a crash and a late step, large payloads": ONE_TASK._replace(faults=Faults(crashes=1, late_copies=1), inline=False),
    "a replaced instance and a late step": ONE_TASK._replace(faults=Faults(replacements=1, late_copies=1)),
    "a replaced instance and all data lost": ONE_TASK._replace(faults=Faults(replacements=1, data_losses=1)),
    "agent and CJ replaced": ONE_TASK._replace(faults=Faults(replacements=2)),
    "a crash and two payloads lost": ONE_TASK._replace(faults=Faults(crashes=1, lost_payloads=2), inline=False),
    "all data lost twice, with a crash": ONE_TASK._replace(faults=Faults(crashes=1, data_losses=2)),
    "two agents start at once": STARTING._replace(faults=Faults(lost_hellos=1, replacements=1)),
}


@dataclass
class Graph:
    """Every state that can be reached from the first."""

    states: list[SystemState]
    #: for each state, its successors without a fault
    successors: list[list[int]] = field(default_factory=list)
    #: for each state but the first, the state it was first reached from, and the transition's name
    origins: list[tuple[int, str]] = field(default_factory=lambda: [(0, "")])
    broken: list[str] = field(default_factory=list)

    def path_to(self, index: int) -> str:
        """The shortest sequence of transitions to a state."""
        names: list[str] = []
        while index:
            index, name = self.origins[index]
            names.append(name)
        return "; ".join(reversed(names))


def explore(start: SystemState, most: int = 100_000) -> Graph:
    """Search breadth first, until a promise is broken; more than ``most`` states count as a broken promise."""
    graph, known = Graph([start]), {start: 0}
    with _no_garbage_collection():
        for index, state in enumerate(graph.states):
            successors: list[int] = []
            for transition in transitions(state):
                at = known.setdefault(transition.state, len(known))
                faults = list(broken_by(state, transition))
                if at == len(graph.states):
                    graph.states.append(transition.state)
                    graph.origins.append((index, transition.name))
                    faults += broken_in(transition.state)
                if not transition.fault and at != index:
                    successors.append(at)
                graph.broken += [f"{fault}, by: {graph.path_to(index)}; {transition.name}" for fault in faults]
            graph.successors.append(successors)
            if len(graph.states) > most:
                graph.broken.append(f"6: there are too many states, by: {graph.path_to(index)}")
            if graph.broken:
                break
    return graph


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Collecting garbage among millions of tuples, where there is none, takes half the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def stuck(graph: Graph) -> list[str]:
    """Paths to states in which an agent and a CJ run, but some task never ends without further faults."""
    predecessors: list[list[int]] = [[] for _ in graph.states]
    for index, successors in enumerate(graph.successors):
        for at in successors:
            predecessors[at].append(index)
    todo = [index for index, state in enumerate(graph.states) if ended(state)]
    can_end = set(todo)
    while todo:
        for index in predecessors[todo.pop()]:
            if index not in can_end:
                can_end.add(index)
                todo.append(index)
    return [
        graph.path_to(index) for index, state in enumerate(graph.states) if can_finish(state) and index not in can_end
    ]


def count_on_cycles(graph: Graph) -> int:
    """How many states are on, or behind, a cycle of transitions without a fault: a livelock."""
    indegrees = [0] * len(graph.states)
    for successors in graph.successors:
        for at in successors:
            indegrees[at] += 1
    todo = [index for index, count in enumerate(indegrees) if not count]
    left = len(graph.states)
    while todo:
        left -= 1
        for at in graph.successors[todo.pop()]:
            indegrees[at] -= 1
            if not indegrees[at]:
                todo.append(at)
    return left


@pytest.mark.parametrize("start", SCENARIOS.values(), ids=SCENARIOS.keys())
def test_the_promises_hold_in_every_interleaving(start: SystemState) -> None:
    graph = explore(start)
    assert not graph.broken
    assert not stuck(graph)
    assert not count_on_cycles(graph), "without faults there is no cycle, so no fair scheduler is needed"
    assert any(state.history.outcome == ("used", "used") for state in graph.states)
    assert any(state.link.over for state in graph.states), "both sides have left after the last task"
    assert len(graph.states) > 1000
    print(f"{len(graph.states)} states")


Mutant = Callable[..., tuple[LinkState, Reply]]


def _hello_without_fencing(state: LinkState, instance: Instance, now: int) -> tuple[LinkState, Reply]:
    if not instance.epoch:
        return state, ("NEXT", now)
    side = Side(instance.name, instance.epoch)
    return state._replace(agent=side) if instance.role == "agent" else state._replace(cj=side), ("OK", instance.epoch)


def _take_without_fencing(state: LinkState, instance: Instance, task: str) -> tuple[LinkState, Reply]:
    return ORIGINALS["take"](state, Instance("agent", state.agent.name, state.agent.epoch), task)


def _assign_although_the_result_is_there(
    state: LinkState, instance: Instance, task: str, expected: str, lost: str
) -> tuple[LinkState, Reply]:
    return ORIGINALS["assign"](state, instance, task, expected, lost and state.ledger(task).result)


def _abort_that_skips_unknown_tasks(state: LinkState, instance: Instance, task: str) -> tuple[LinkState, Reply]:
    return ORIGINALS["abort"](state, instance if state.ledger(task).status else None, task)


def _assign_that_forgets_aborts(
    state: LinkState, instance: Instance, task: str, expected: str, lost: str
) -> tuple[LinkState, Reply]:
    if state.ledger(task).status == ABORTED:
        state = state._replace(ledgers=tuple(pair for pair in state.ledgers if pair[0] != task))
    return ORIGINALS["assign"](state, instance, task, expected, lost)


def _settle_that_deletes_the_result(
    state: LinkState, instance: Instance, task: str, status: str
) -> tuple[LinkState, Reply]:
    state, reply = ORIGINALS["settle"](state, instance, task, status)
    return state._replace(kept="", kept_task="", results=tuple(x for x in state.results if x.ref != state.kept)), reply


def _refuse_that_keeps_the_old_entry(
    state: LinkState, instance: Instance, task: str, rc: str
) -> tuple[LinkState, Reply]:
    after, reply = ORIGINALS["refuse"](state, instance, task, rc)
    return after._replace(results=tuple(dict.fromkeys((*state.results, *after.results)))), reply


def _refuse_without_an_entry(state: LinkState, instance: Instance, task: str, rc: str) -> tuple[LinkState, Reply]:
    after, reply = ORIGINALS["refuse"](state, instance, task, rc)
    return after._replace(results=state.results), reply


def _submit_that_forgets_the_lost_payload(
    state: LinkState, instance: Instance, task: str, submit_id: str
) -> tuple[LinkState, Reply]:
    ledgers = tuple((known, ledger._replace(lost="")) for known, ledger in state.ledgers)
    return ORIGINALS["submit"](state._replace(ledgers=ledgers), instance, task, submit_id)


ORIGINALS: dict[str, Mutant] = {
    name: getattr(model, name) for name in ("take", "assign", "abort", "settle", "refuse", "submit")
}
MUTANTS: dict[Mutant, tuple[str, Faults]] = {
    _hello_without_fencing: ("hello", Faults(replacements=1, data_losses=1)),
    _take_without_fencing: ("take", Faults(replacements=1)),
    _assign_although_the_result_is_there: ("assign", Faults(lost_payloads=2, late_copies=1)),
    _abort_that_skips_unknown_tasks: ("abort", Faults(aborts=1, late_copies=1)),
    _assign_that_forgets_aborts: ("assign", Faults(aborts=1, late_copies=1)),
    _settle_that_deletes_the_result: ("settle", Faults(crashes=1)),
    _refuse_that_keeps_the_old_entry: ("refuse", Faults(lost_payloads=1, late_copies=1)),
    _refuse_without_an_entry: ("refuse", Faults(lost_payloads=1)),
    _submit_that_forgets_the_lost_payload: ("submit", Faults(lost_payloads=1)),
}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__.strip("_"))
def test_a_mutant_of_a_script_is_found(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    name, faults = MUTANTS[mutant]
    monkeypatch.setattr(model, name, mutant)
    graph = explore(ONE_TASK._replace(faults=faults, inline=not faults.lost_payloads), most=20_000)
    assert graph.broken or stuck(graph) or count_on_cycles(graph)
