"""FedAvg with real processes: the model is right, whichever site is killed, slow, late or disconnected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from redflare_workers.protocol.job_outcome import ABORTED

from tests.programs.server_job import SMALL
from tests.support.federation.processes import Federation
from tests.support.link.processes import pause, resume
from tests.support.redis_server.proxy import Proxy, proxy
from tests.support.waiting import wait_until

ROUNDS = 3
OPTIONS: dict[str, Any] = {"min_clients": 3, "num_rounds": ROUNDS, "wait_time_after_min_received": 0}
#: Elements of a model that is too large for an entry.
LARGE = 100_000
#: TTL in milliseconds of a heartbeat after several missed ones.
MISSED = 1_000


def test_three_sites_train_a_model_and_nothing_is_left(federation: Federation) -> None:
    federation.sites([1, 2, 3])
    server = federation.server(options=OPTIONS)
    federation.model_of(server, ROUNDS)
    federation.assert_trained_once([1, 2, 3], ROUNDS)
    federation.assert_all_end()


def test_four_sites_one_killed_one_slow_one_late_make_the_right_model(federation: Federation) -> None:
    held = federation.trainer("site-1", wait_at="training:1")
    agent = federation.trainer("site-2", wait_at="training:0")
    slow = federation.trainer("site-3", work=1.5)
    for number in (1, 3):
        federation.cj(f"site-{number}")
    doomed = federation.cj("site-2")
    server = federation.server(options=OPTIONS)

    agent.receive("at")
    doomed.kill()
    federation.cj("site-2")
    agent.send("go")
    held.receive("at")
    federation.sites([4])
    federation.trainers["site-4"][0].receive("submitted")
    held.send("go")

    federation.model_of(server, ROUNDS)
    history = server.received("history")[0][0]
    assert sorted(history[0]["clients"]) == ["site-1", "site-2", "site-3"]
    assert sorted(history[1]["clients"]) == ["site-1", "site-2", "site-4"]
    assert slow.receive("dropped")[0] == 1
    assert set(federation.trainings().values()) == {1}
    federation.assert_all_end()


def test_a_slow_site_takes_part_when_it_answers_within_the_wait_time(federation: Federation) -> None:
    federation.sites([1, 2, 4])
    federation.sites([3], work=0.5)
    federation.server(options={**OPTIONS, "wait_time_after_min_received": 20})
    wait_until(lambda: federation.trainings()["site-3", 1])
    # all clients with the task have answered, so the wait time ends early
    federation.model_of(federation.servers[0], ROUNDS)
    history = federation.servers[0].received("history")[0][0]
    assert all(len(each["clients"]) >= 3 for each in history)
    assert "site-3" in history[1]["clients"]
    assert set(federation.trainings().values()) == {1}
    federation.assert_all_end()


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_a_client_job_killed_while_its_agent_trains_is_handed_the_same_task_and_it_is_trained_once(
    federation: Federation, size: int
) -> None:
    federation.sites([1, 3])
    agent = federation.trainer("site-2", wait_at="training:1")
    doomed = federation.cj("site-2")
    server = federation.server(options=OPTIONS, size=size)
    agent.receive("at")
    doomed.kill()
    successor = federation.cj("site-2")
    wait_until(lambda: "goes on" in successor.log_tail() or "has joined" in successor.log_tail())
    agent.send("go")
    federation.model_of(server, ROUNDS)
    federation.assert_trained_once([1, 2, 3], ROUNDS)
    federation.assert_all_end()


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_a_result_that_waited_for_the_restart_of_a_client_job_is_not_computed_again(
    federation: Federation, size: int
) -> None:
    federation.sites([1, 3])
    agent = federation.trainer("site-2", wait_at="training:1")
    doomed = federation.cj("site-2")
    server = federation.server(options=OPTIONS, size=size)
    agent.receive("at")
    doomed.kill()
    agent.send("go")
    keys = f"{federation.settings.namespace}:{{site-2--agent}}:results"
    wait_until(lambda: federation.client.xlen(keys) == 1)
    federation.cj("site-2")
    federation.model_of(server, ROUNDS)
    federation.assert_trained_once([1, 2, 3], ROUNDS)
    federation.assert_all_end()


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_an_agent_killed_while_it_trains_costs_its_own_training_and_no_other(federation: Federation, size: int) -> None:
    federation.sites([1, 3])
    doomed = federation.trainer("site-2", wait_at="training:1")
    federation.cj("site-2")
    server = federation.server(options=OPTIONS, size=size)
    doomed.receive("at")
    doomed.kill()
    federation.trainer("site-2")
    federation.model_of(server, ROUNDS)
    trainings = federation.trainings()
    assert trainings.pop(("site-2", 1)) == 2
    assert set(trainings.values()) == {1}
    (task_id,) = federation.taken()["site-2", 1]
    assert federation.trained_for()["site-2", 1] == task_id
    federation.assert_all_end()


def test_a_site_whose_job_and_agent_are_killed_takes_part_after_their_restart(federation: Federation) -> None:
    federation.sites([1, 3])
    agent = federation.trainer("site-2", wait_at="training:1")
    cj = federation.cj("site-2")
    server = federation.server(options=OPTIONS)
    agent.receive("at")
    cj.kill()
    agent.kill()
    federation.sites([2])
    federation.model_of(server, ROUNDS)
    assert federation.trainings()["site-2", 1] == 2
    federation.assert_all_end()


def test_a_client_job_that_is_replaced_ends_and_its_successor_submits(federation: Federation) -> None:
    federation.sites([1, 3])
    agent = federation.trainer("site-2", wait_at="training:1")
    older = federation.cj("site-2")
    server = federation.server(options=OPTIONS)
    agent.receive("at")
    federation.cj("site-2")
    assert older.receive("outcome")[0] == "FENCED"
    assert older.receive("threads") == ([],)
    older.end()
    agent.send("go")
    federation.model_of(server, ROUNDS)
    federation.assert_trained_once([1, 2, 3], ROUNDS)
    federation.assert_all_end()


def test_an_abort_in_mid_round_reaches_every_agent_and_the_sites_end(federation: Federation) -> None:
    federation.sites([1, 2, 3], work=60)
    server = federation.server(options=OPTIONS, size=LARGE)
    trainers = [children[0] for children in federation.trainers.values()]
    for trainer in trainers:
        trainer.receive("training")
    server.send("abort", "enough of it")
    assert server.receive("outcome") == (ABORTED, "enough of it")
    for trainer in trainers:
        trainer.receive("dropped")
    for (cj,) in federation.cjs.values():
        assert cj.receive("outcome") == (ABORTED, "enough of it")
        assert cj.receive("threads") == ([],)
    assert server.receive("threads") == ([],)
    federation.assert_clean()


def test_a_site_that_joins_a_job_that_is_over_ends_at_once(federation: Federation) -> None:
    federation.sites([1, 2, 3])
    federation.model_of(federation.server(options=OPTIONS), ROUNDS)
    federation.sites([4])
    federation.assert_all_end()
    assert not any(site == "site-4" for site, _ in federation.trainings())


def test_an_agent_whose_client_job_was_killed_learns_from_the_next_that_the_job_is_over(federation: Federation) -> None:
    federation.sites([1, 3])
    agent = federation.trainer("site-2", work=60)
    doomed = federation.cj("site-2")
    server = federation.server(options=OPTIONS)
    agent.receive("training")
    doomed.kill()
    server.send("abort", "enough of it")
    server.receive("outcome")
    cj = federation.cj("site-2")
    assert cj.receive("outcome") == (ABORTED, "enough of it")
    agent.receive("dropped")
    assert "bye" in agent.receive("closed")[0]


def test_sites_that_start_before_their_server_are_served(federation: Federation) -> None:
    federation.sites([1, 2, 3])
    joined = [children[0] for children in federation.cjs.values()]
    wait_until(lambda: all("has joined" in cj.log_tail() for cj in joined))
    federation.model_of(federation.server(options=OPTIONS), ROUNDS)
    federation.assert_trained_once([1, 2, 3], ROUNDS)
    federation.assert_all_end()


@pytest.mark.parametrize("whose", ["the client job", "the agent", "the site"])
@pytest.mark.parametrize("cut", [Proxy.drop, Proxy.half_open], ids=["cut off", "swallowed"])
def test_a_network_that_fails_for_some_seconds_costs_no_training(
    federation: Federation, cut: Callable[[Proxy], None], whose: str
) -> None:
    with proxy(federation.url) as cable:
        behind = {"url": cable.url}
        agent = federation.trainer("site-2", wait_at="training:1", **(behind if whose != "the client job" else {}))
        federation.cj("site-2", **(behind if whose != "the agent" else {}))
        federation.sites([1, 3])
        server = federation.server(options=OPTIONS, size=LARGE)
        agent.receive("at")
        cut(cable)
        agent.send("go")
        keys = federation.heartbeats_of("site-2", agent=whose != "the client job", cj=whose != "the agent")
        wait_until(lambda: all(federation.client.pttl(key) < MISSED for key in keys))
        cable.pass_through()
        federation.model_of(server, ROUNDS)
        federation.assert_trained_once([1, 2, 3], ROUNDS)
        federation.assert_all_end()


def test_a_frozen_client_job_does_not_delay_the_others(federation: Federation) -> None:
    federation.sites([1, 2, 3, 4])
    frozen = federation.cjs["site-4"][0]
    wait_until(lambda: "has joined" in frozen.log_tail())
    pause(frozen)
    federation.model_of(federation.server(options=OPTIONS), ROUNDS)
    resume(frozen)
    federation.assert_all_end()
