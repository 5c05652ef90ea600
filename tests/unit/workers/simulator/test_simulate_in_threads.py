"""simulate() with all sites in threads: results, errors, progress; and that nothing is left."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from redflare_broker.errors import ConfigError, RedflareError
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.signal import Signal
from redflare_workers.protocol.job_outcome import FAILED
from redflare_workers.simulator import Progress, SimulationError, simulate
from redflare_workers.workflow import FedAvg

from tests.programs import simulated
from tests.support.waiting import wait_until


def fedavg(sites: int, rounds: int = 2) -> FedAvg:
    return FedAvg(dict(simulated.initial_model), min_clients=sites, num_rounds=rounds, wait_time_after_min_received=0)


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    wait_until(lambda: set(threading.enumerate()) <= before, what="the end of all threads")


def test_all_sites_train_in_every_round(server_url: str) -> None:
    outcome = simulate(fedavg(3), simulated.train, sites=3, processes=0, url=server_url)
    assert outcome.ok
    assert outcome.status == "FINISHED:COMPLETED"
    assert outcome.results == 6
    assert (outcome.sites, outcome.processes) == (3, 0)
    assert outcome.seconds > 0
    np.testing.assert_array_equal(outcome.controller.model["w"], [2, 2, 2])
    assert [sorted(done["clients"]) for done in outcome.controller.history] == [["site-1", "site-2", "site-3"]] * 2


def test_a_function_gets_its_site_and_may_be_any_function(server_url: str) -> None:
    seen = set()

    def train(task: Any, site: str) -> Any:
        seen.add(site)
        return simulated.train(task, site)

    simulate(fedavg(2, 1), train, sites=["berlin", "paris"], processes=0, url=server_url)
    assert seen == {"berlin", "paris"}


def test_a_function_of_the_task_alone_finds_its_site_in_the_task(server_url: str) -> None:
    seen = set()

    def train(task: Any) -> Any:
        seen.add(task.site)
        return simulated.train(task, task.site)

    assert simulate(fedavg(2, 1), train, sites=["berlin", "paris"], processes=0, url=server_url).ok
    assert seen == {"berlin", "paris"}


def test_progress_is_reported_from_the_first_site_to_the_last_round(server_url: str) -> None:
    seen: list[Progress] = []
    simulate(fedavg(2, 3), simulated.train, sites=2, processes=0, url=server_url, on_progress=seen.append)
    assert {progress.sites for progress in seen} == {2}
    assert [progress.results for progress in seen] == sorted(progress.results for progress in seen)
    last = seen[-1]
    assert (last.joined, last.rounds_done, last.rounds, last.results) == (2, 3, 3, 6)
    assert all(progress.results_in_round <= 2 for progress in seen)


def test_a_workflow_that_fails_is_an_outcome_with_its_reason(server_url: str) -> None:
    outcome = simulate(fedavg(2), simulated.failing, sites=2, processes=0, url=server_url)
    assert not outcome.ok
    assert outcome.status == FAILED
    assert "1 valid result (site-1), but min_clients is 2: site-2: the return code is EXECUTION_EXC" in outcome.reason


def test_a_site_whose_function_ends_its_thread_ends_the_simulation(server_url: str) -> None:
    with pytest.raises(SimulationError, match="site-2: KeyboardInterrupt: enough of this"):
        simulate(fedavg(2), simulated.leaving, sites=2, processes=0, url=server_url)


def test_a_controller_that_raises_is_an_outcome_with_its_reason(server_url: str) -> None:
    class Broken(FedAvg):
        def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
            raise ZeroDivisionError("no sites, no share")

    broken = Broken(dict(simulated.initial_model), min_clients=1, num_rounds=1)
    outcome = simulate(broken, simulated.train, sites=1, processes=0, url=server_url)
    assert (outcome.status, outcome.reason) == (FAILED, "ZeroDivisionError: no sites, no share")


def test_a_server_that_cannot_be_used_is_an_error_at_once() -> None:
    with pytest.raises(ConfigError, match="nonsense"):
        simulate(fedavg(1), simulated.train, sites=1, processes=0, url="nonsense://nowhere")


@pytest.mark.parametrize(
    ("controller", "train", "message"),
    [
        ("FedAvg", simulated.train, "controller must be a Controller"),
        (None, "train", r"train must be a function train\(task\) or train\(task, site\), but is a str"),
        (None, lambda: None, r"train\(task\) or train\(task, site\), but its signature is \(\)"),
    ],
)
def test_anything_but_a_controller_and_a_function_is_refused(controller: Any, train: Any, message: str) -> None:
    with pytest.raises((TypeError, ConfigError), match=message):
        simulate(controller or fedavg(1), train, sites=1, url="redis://nobody.invalid")


def test_the_errors_are_redflares_own() -> None:
    assert issubclass(SimulationError, RedflareError)
