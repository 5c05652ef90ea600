"""The count of results at the end of a round, whatever the order in which the server's threads fire their events."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from redflare_workers.apis.event_type import EventType
from redflare_workers.apis.fl_constant import FLContextKey
from redflare_workers.simulator.progress import Progress, ProgressCounter

from tests.support.communicator.bench import CommunicatorBench, IdleController

SITES = ["site-1", "site-2", "site-3"]


class Rounds(IdleController):
    current_round, num_rounds = 0, 2


class Server:
    """A server of two rounds, of which the test handles each result and fires each event when it wants to."""

    def __init__(self, bench: CommunicatorBench) -> None:
        self.bench = bench
        self.controller = Rounds()
        self.controller.set_communicator(bench.comm)
        self.seen: list[Progress] = []
        self.counter = ProgressCounter(self.controller, len(SITES), self.seen.append)
        bench.engine.add_component("simulator", self.counter)

    def begin_round(self, min_responses: int = 0) -> dict[str, str]:
        """Broadcast the round's task; return the ids that the sites get."""
        self.task = self.bench.task()
        self.bench.comm.broadcast(self.task, self.bench.ctx, list(SITES), min_responses)
        return {site: self.bench.ask(site) for site in SITES}

    def end_round(self) -> None:
        self.bench.check()
        self.bench.settle(self.task)
        self.controller.current_round += 1

    def fire(self, event: str, task_id: str) -> None:
        fl_ctx = self.bench.engine.new_context()
        fl_ctx.set_prop(FLContextKey.TASK_ID, task_id)
        self.bench.engine.fire_event(event, fl_ctx)

    def submit(self, site: str, task_id: str) -> None:
        self.fire(EventType.BEFORE_PROCESS_SUBMISSION, task_id)
        self.bench.answer(site, task_id)
        self.fire(EventType.AFTER_PROCESS_SUBMISSION, task_id)

    @property
    def results_of_rounds(self) -> list[int]:
        """The count with which the end of each round was reported."""
        first = {progress.rounds_done: progress.results for progress in reversed(self.seen)}
        return [first[number] for number in sorted(first) if number]


@pytest.fixture
def server() -> Iterator[Server]:
    with CommunicatorBench(SITES) as bench:
        yield Server(bench)


def test_a_round_whose_end_no_event_tells_is_reported_with_its_own_results(server: Server) -> None:
    tasks = server.begin_round()
    for site in SITES:
        server.submit(site, tasks[site])
    server.end_round()
    tasks = server.begin_round()
    server.submit("site-1", tasks["site-1"])
    assert server.results_of_rounds == [3]
    assert (server.seen[-1].results, server.seen[-1].results_in_round) == (4, 1)


def test_a_round_is_reported_with_the_result_that_ended_it_before_its_event_came(server: Server) -> None:
    tasks = server.begin_round()
    for site in ("site-1", "site-2"):
        server.submit(site, tasks[site])
    server.fire(EventType.BEFORE_PROCESS_SUBMISSION, tasks["site-3"])
    server.bench.answer("site-3", tasks["site-3"])
    server.end_round()
    server.fire(EventType.END_WORKFLOW, "")
    assert server.results_of_rounds == [3]
    server.fire(EventType.AFTER_PROCESS_SUBMISSION, tasks["site-3"])
    assert server.counter.results == 3


@pytest.mark.parametrize("in_hand", [False, True], ids=["after the end", "handled at the end"])
def test_a_result_that_comes_after_the_end_of_its_task_is_none_of_the_next_round(server: Server, in_hand: bool) -> None:
    tasks = server.begin_round(min_responses=2)
    for site in ("site-1", "site-2"):
        server.submit(site, tasks[site])
    if in_hand:
        server.fire(EventType.BEFORE_PROCESS_SUBMISSION, tasks["site-3"])
    server.end_round()
    server.begin_round()
    if in_hand:
        server.bench.answer("site-3", tasks["site-3"])
        server.fire(EventType.AFTER_PROCESS_SUBMISSION, tasks["site-3"])
    else:
        server.submit("site-3", tasks["site-3"])
    assert server.results_of_rounds == [2]
    assert (server.seen[-1].results, server.seen[-1].results_in_round) == (2, 0)


def test_nobody_need_listen(server: Server) -> None:
    counter = ProgressCounter(server.controller, len(SITES), None)
    server.bench.engine.add_component("silent", counter)
    tasks = server.begin_round()
    server.submit("site-1", tasks["site-1"])
    assert counter.results == 1
