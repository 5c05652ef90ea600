"""A server killed at any point: its successor resumes, sites only wait, and the model is the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import redis
from redflare_broker.embedded.server import EmbeddedServer

from tests.programs.server_job import SMALL
from tests.support.federation.processes import Federation
from tests.support.process.child import Child
from tests.support.waiting import wait_until

ROUNDS = 6
#: The round in which it dies, from 0.
FATAL = 2
SITES = (1, 2, 3)
OPTIONS: dict[str, Any] = {"min_clients": len(SITES), "num_rounds": ROUNDS, "wait_time_after_min_received": 0}
#: Elements of a model that is too large for an entry.
LARGE = 100_000
SIZES = pytest.mark.parametrize("size", [SMALL, LARGE], ids=["small", "large"])
POINTS = [
    f"checkpointed:{FATAL}",
    f"taking:{FATAL}:1",
    f"taken:{FATAL}:1",
    f"taking:{FATAL}:2",
    f"taken:{FATAL}:2",
    f"taking:{FATAL}:3",
    f"taken:{FATAL}:3",
    f"ending:{FATAL}",
    f"ended:{FATAL}",
    f"checkpoint:{FATAL + 1}",
    f"checkpointed:{FATAL + 1}",
]


@pytest.fixture(scope="module")
def undisturbed(shared_server: tuple[str, redis.Redis], tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """Digest of the model of an undisturbed run, by the model's size."""
    url, client = shared_server
    digests = {}
    for size in (SMALL, LARGE):
        with Federation(url, tmp_path_factory.mktemp("undisturbed"), client, f"u{size}") as federation:
            federation.sites(SITES)
            digests[size] = federation.model_of(federation.server(options=OPTIONS, size=size), ROUNDS)
            federation.assert_trained_once(SITES, ROUNDS)
            federation.assert_all_end()
            federation.assert_clean()
    return digests


def finish(federation: Federation, server: Child, expected: str) -> None:
    """Check that the run ends like an undisturbed one."""
    assert federation.model_of(server, ROUNDS) == expected
    federation.assert_trained_once(SITES, ROUNDS)
    federation.assert_all_end()
    federation.assert_clean()


@SIZES
@pytest.mark.parametrize("point", POINTS)
def test_the_successor_of_a_server_killed_anywhere_in_a_round_trains_an_equal_model(
    federation: Federation, undisturbed: dict[int, str], point: str, size: int
) -> None:
    federation.sites(SITES)
    doomed = federation.server(options=OPTIONS, size=size, wait_at=point)
    doomed.receive("at")
    doomed.kill()
    server = federation.server(options=OPTIONS, size=size)
    finish(federation, server, undisturbed[size])


@SIZES
def test_the_successor_of_a_server_killed_while_all_sites_train_sends_no_task_again(
    federation: Federation, undisturbed: dict[int, str], size: int
) -> None:
    federation.sites(SITES, wait_at=f"training:{FATAL}")
    doomed = federation.server(options=OPTIONS, size=size)
    trainers = [children[0] for children in federation.trainers.values()]
    for trainer in trainers:
        trainer.receive("at")
    doomed.kill()
    server = federation.server(options=OPTIONS, size=size)
    for trainer in trainers:
        trainer.send("go")
    finish(federation, server, undisturbed[size])


@SIZES
def test_results_submitted_while_no_server_runs_are_received_by_its_successor(
    federation: Federation, undisturbed: dict[int, str], size: int
) -> None:
    federation.sites(SITES, wait_at=f"training:{FATAL}")
    doomed = federation.server(options=OPTIONS, size=size)
    trainers = [children[0] for children in federation.trainers.values()]
    for trainer in trainers:
        trainer.receive("at")
    doomed.kill()
    for trainer in trainers:
        trainer.send("go")
        while trainer.receive("submitted") != (FATAL, True):
            pass
    server = federation.server(options=OPTIONS, size=size)
    finish(federation, server, undisturbed[size])


def test_servers_killed_in_every_round_train_an_equal_model(
    federation: Federation, undisturbed: dict[int, str]
) -> None:
    federation.sites(SITES)
    for number in range(ROUNDS):
        doomed = federation.server(options=OPTIONS, size=LARGE, wait_at=f"taken:{number}:2")
        doomed.receive("at")
        doomed.kill()
    server = federation.server(options=OPTIONS, size=LARGE)
    finish(federation, server, undisturbed[LARGE])


def test_a_job_survives_servers_that_are_killed_right_after_their_start(
    federation: Federation, undisturbed: dict[int, str]
) -> None:
    federation.sites(SITES)
    for _ in range(5):
        federation.server(options=OPTIONS, size=LARGE).kill()
    server = federation.server(options=OPTIONS, size=LARGE)
    finish(federation, server, undisturbed[LARGE])


def test_a_server_that_is_replaced_while_it_lives_ends_and_changes_nothing(
    federation: Federation, undisturbed: dict[int, str]
) -> None:
    federation.sites(SITES)
    older = federation.server(options=OPTIONS, size=LARGE, wait_at=f"taken:{FATAL}:2")
    older.receive("at")
    server = federation.server(options=OPTIONS, size=LARGE)
    assert federation.model_of(server, ROUNDS) == undisturbed[LARGE]
    older.send("go")
    assert older.receive("outcome")[0] == "FENCED"
    assert older.receive("threads") == ([],)
    older.end()
    federation.assert_trained_once(SITES, ROUNDS)
    federation.assert_all_end()
    federation.assert_clean()


def test_a_site_that_restarts_without_a_server_continues_its_task(
    federation: Federation, undisturbed: dict[int, str]
) -> None:
    federation.sites(SITES, wait_at=f"training:{FATAL}")
    doomed = federation.server(options=OPTIONS, size=LARGE)
    trainers = [children[0] for children in federation.trainers.values()]
    for trainer in trainers:
        trainer.receive("at")
    doomed.kill()
    federation.cjs["site-2"][0].kill()
    federation.cj("site-2")
    for trainer in trainers:
        trainer.send("go")
    server = federation.server(options=OPTIONS, size=LARGE)
    finish(federation, server, undisturbed[LARGE])


@SIZES
def test_a_result_of_a_client_job_that_was_killed_without_a_server_is_not_computed_again(
    federation: Federation, undisturbed: dict[int, str], size: int
) -> None:
    federation.sites(SITES, wait_at=f"training:{FATAL}")
    doomed = federation.server(options=OPTIONS, size=size)
    trainers = [children[0] for children in federation.trainers.values()]
    for trainer in trainers:
        trainer.receive("at")
    doomed.kill()
    before = federation.unanswered()
    for trainer in trainers:
        trainer.send("go")
    wait_until(lambda: federation.unanswered() == before + len(SITES))
    federation.cjs["site-2"][0].kill()
    successor = federation.cj("site-2")
    wait_until(lambda: "has joined" in successor.log_tail())
    server = federation.server(options=OPTIONS, size=size)
    finish(federation, server, undisturbed[size])


# -- Redis is hurt as well ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_server", [True, False], ids=["server killed too", "server lives"])
@pytest.mark.parametrize("point", [f"taken:{FATAL}:2", f"ended:{FATAL}", f"checkpointed:{FATAL}"])
def test_a_redis_that_crashes_and_reads_its_file_costs_no_training(
    tmp_path: Path, undisturbed: dict[int, str], point: str, with_server: bool
) -> None:
    with (
        EmbeddedServer(tmp_path / "server", extra={"appendfsync": "always"}) as redis_server,
        redis.Redis.from_url(redis_server.url) as client,
        Federation(redis_server.url, tmp_path, client) as federation,
    ):
        federation.sites(SITES)
        server = federation.server(options=OPTIONS, size=LARGE, wait_at=point)
        server.receive("at")
        if with_server:
            server.kill()
        redis_server.kill()
        redis_server.stop()
        if with_server:
            server = federation.server(options=OPTIONS, size=LARGE)
        redis_server.start()
        if not with_server:
            server.send("go")
        finish(federation, server, undisturbed[LARGE])
