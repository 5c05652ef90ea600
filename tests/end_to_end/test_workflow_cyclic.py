"""Cyclic over real processes: the model goes round, past a site that is dead."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.programs.server_job import SMALL, initial_model
from tests.programs.training import trained
from tests.support.federation.processes import COMPLETED, PATIENCE, Federation
from tests.support.process.child import Child
from tests.support.waiting import wait_until

ROUNDS = 2
OPTIONS: dict[str, Any] = {
    "num_rounds": ROUNDS,
    "order": ["site-1", "site-2", "site-3"],
    "task_assignment_timeout": 1,
    "task_result_timeout": 1,
}


def finish(federation: Federation, server: Child, history: list[list[str]]) -> None:
    """The run ends well, these sites have trained in this order, and the model is theirs."""
    status, reason = server.receive("outcome", PATIENCE)
    assert status == COMPLETED, f"{status}: {reason}\n{server.log_tail()}"
    assert server.receive("history") == (history,)
    model = initial_model(SMALL)
    for number, sites in enumerate(history):
        for site in sites:
            model = trained(model, site, number)
    np.testing.assert_allclose(server.receive("model")[1]["w"], model["w"])
    federation.assert_all_end()


def test_a_model_is_passed_to_all_sites(federation: Federation) -> None:
    federation.sites([1, 2, 3])
    server = federation.server(workflow="Cyclic", options=OPTIONS)
    finish(federation, server, [["site-1", "site-2", "site-3"]] * ROUNDS)
    federation.assert_trained_once([1, 2, 3], ROUNDS)


def test_a_site_that_dies_during_its_training_is_skipped(federation: Federation) -> None:
    federation.sites([1, 3])
    agent = federation.trainer("site-2", wait_at="training:0")
    cj = federation.cj("site-2")
    server = federation.server(workflow="Cyclic", options=OPTIONS)
    agent.receive("at")
    agent.kill()
    cj.kill()
    finish(federation, server, [["site-1", "site-3"]] * ROUNDS)
    assert set(federation.trainings().values()) == {1}


def test_a_site_that_dies_before_its_training_is_skipped(federation: Federation) -> None:
    first = federation.trainer("site-1", wait_at="training:0")
    federation.cj("site-1")
    federation.sites([2, 3])
    server = federation.server(workflow="Cyclic", options={**OPTIONS, "task_result_timeout": 0})
    first.receive("at")
    federation.cjs["site-2"][0].kill()
    federation.trainers["site-2"][0].kill()
    wait_until(lambda: "site-2 was reported dead" in server.log_tail())
    first.send("go")
    finish(federation, server, [["site-1", "site-3"]] * ROUNDS)
    assert "site-2" not in {site for site, _ in federation.trainings()}


def test_a_restarted_site_trains_in_the_next_round(federation: Federation) -> None:
    agent = federation.trainer("site-2", wait_at="training:0")
    cj = federation.cj("site-2")
    last = federation.trainer("site-3", wait_at="training:0")
    federation.cj("site-3")
    federation.sites([1])
    server = federation.server(workflow="Cyclic", options={**OPTIONS, "task_result_timeout": 2})
    agent.receive("at")
    agent.kill()
    cj.kill()
    last.receive("at")
    federation.sites([2])
    last.send("go")
    finish(federation, server, [["site-1", "site-3"], ["site-1", "site-2", "site-3"]])
