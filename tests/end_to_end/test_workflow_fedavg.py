"""FedAvg over real processes: the model is right, whichever site is killed, is slow, comes late or is cut off."""

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
#: Milliseconds that a heartbeat still stands when several have been missed.
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

    agent.hear("at")
    doomed.kill()
    federation.cj("site-2")
    agent.say("go")
    held.hear("at")
    federation.sites([4])
    federation.trainers["site-4"][0].hear("submitted")
    held.say("go")

    federation.model_of(server, ROUNDS)
    history = server.heard("history")[0][0]
    assert sorted(history[0]["clients"]) == ["site-1", "site-2", "site-3"]
    assert sorted(history[1]["clients"]) == ["site-1", "site-2", "site-4"]
    assert slow.hear("dropped")[0] == 1
    assert set(federation.trainings().values()) == {1}
    federation.assert_all_end()


def test_a_slow_site_takes_part_when_it_answers_within_the_wait_time(federation: Federation) -> None:
    federation.sites([1, 2, 4])
    federation.sites([3], work=0.5)
    federation.server(options={**OPTIONS, "wait_time_after_min_received": 20})
    wait_until(lambda: federation.trainings()["site-3", 1])
    # all that have the task have answered: the rest of the wait time is not waited for
    federation.model_of(federation.servers[0], ROUNDS)
    history = federation.servers[0].heard("history")[0][0]
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
    agent.hear("at")
    doomed.kill()
    successor = federation.cj("site-2")
    wait_until(lambda: "goes on" in successor.log_tail() or "has joined" in successor.log_tail())
    agent.say("go")
    federation.model_of(server, ROUNDS)
    federation.assert_trained_once([1, 2, 3], ROUNDS)
    federation.assert_all_end()


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_a_result_that_waited_for_a_client_job_to_come_back_is_not_worked_out_again(
    federation: Federation, size: int
) -> None:
    federation.sites([1, 3])
    agent = federation.trainer("site-2", wait_at="training:1")
    doomed = federation.cj("site-2")
    server = federation.server(options=OPTIONS, size=size)
    agent.hear("at")
    doomed.kill()
    agent.say("go")
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
    doomed.hear("at")
    doomed.kill()
    federation.trainer("site-2")
    federation.model_of(server, ROUNDS)
    trainings = federation.trainings()
    assert trainings.pop(("site-2", 1)) == 2
    assert set(trainings.values()) == {1}
    (task_id,) = federation.taken()["site-2", 1]
    assert federation.trained_for()["site-2", 1] == task_id
    federation.assert_all_end()


def test_a_site_whose_job_and_agent_are_killed_comes_back_and_takes_part(federation: Federation) -> None:
    federation.sites([1, 3])
    agent = federation.trainer("site-2", wait_at="training:1")
    cj = federation.cj("site-2")
    server = federation.server(options=OPTIONS)
    agent.hear("at")
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
    agent.hear("at")
    federation.cj("site-2")
    assert older.hear("outcome")[0] == "FENCED"
    assert older.hear("threads") == ([],)
    older.end()
    agent.say("go")
    federation.model_of(server, ROUNDS)
    federation.assert_trained_once([1, 2, 3], ROUNDS)
    federation.assert_all_end()


def test_an_abort_in_mid_round_reaches_every_agent_and_the_sites_end(federation: Federation) -> None:
    federation.sites([1, 2, 3], work=60)
    server = federation.server(options=OPTIONS, size=LARGE)
    trainers = [children[0] for children in federation.trainers.values()]
    for trainer in trainers:
        trainer.hear("training")
    server.say("abort", "enough of it")
    assert server.hear("outcome") == (ABORTED, "enough of it")
    for trainer in trainers:
        trainer.hear("dropped")
    for (cj,) in federation.cjs.values():
        assert cj.hear("outcome") == (ABORTED, "enough of it")
        assert cj.hear("threads") == ([],)
    assert server.hear("threads") == ([],)
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
    agent.hear("training")
    doomed.kill()
    server.say("abort", "enough of it")
    server.hear("outcome")
    cj = federation.cj("site-2")
    assert cj.hear("outcome") == (ABORTED, "enough of it")
    agent.hear("dropped")
    assert "bye" in agent.hear("closed")[0]


def test_sites_that_were_there_before_their_server_are_served(federation: Federation) -> None:
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
        agent.hear("at")
        cut(cable)
        agent.say("go")
        keys = federation.heartbeats_of("site-2", agent=whose != "the client job", cj=whose != "the agent")
        wait_until(lambda: all(federation.client.pttl(key) < MISSED for key in keys))
        cable.pass_through()
        federation.model_of(server, ROUNDS)
        federation.assert_trained_once([1, 2, 3], ROUNDS)
        federation.assert_all_end()


def test_a_frozen_client_job_does_not_keep_the_others_from_going_on(federation: Federation) -> None:
    federation.sites([1, 2, 3, 4])
    frozen = federation.cjs["site-4"][0]
    wait_until(lambda: "has joined" in frozen.log_tail())
    pause(frozen)
    federation.model_of(federation.server(options=OPTIONS), ROUNDS)
    resume(frozen)
    federation.assert_all_end()
