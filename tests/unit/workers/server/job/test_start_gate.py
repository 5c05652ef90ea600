"""A controller begins when the sites that take part have joined, and it is said for whom it waits."""

from __future__ import annotations

import threading
from typing import Any

import fakeredis
import pytest
from redflare_broker.inspection.jobs import JobInspector
from redflare_broker.job_state.awaited_sites import AwaitedSites
from redflare_broker.keys import Keys
from redflare_broker.transport.server import Server
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.signal import Signal
from redflare_workers.protocol.job_outcome import ABORTED, COMPLETED
from redflare_workers.server.job.server_job import ServerJob
from redflare_workers.server.job.start_gate import Attendance

from tests.support.job.rounds import Rounds, model
from tests.support.job.runs import FunctionController, JobRuns, RawSite, serving
from tests.support.waiting import wait_until


class Asking(FunctionController):
    """Asks at its start who is there, as NVFlare's FedAvg does."""

    def __init__(self) -> None:
        super().__init__(lambda own, abort, fl_ctx: None)
        self.begun = threading.Event()
        self.there: list[str] = []

    def start_controller(self, fl_ctx: FLContext) -> None:
        self.there = [client.name for client in fl_ctx.get_engine().get_clients()]
        self.begun.set()


def awaited(redis: fakeredis.FakeRedis) -> AwaitedSites | None:
    text: Any = redis.hget("flare:{server.job}:job", "awaited")
    return AwaitedSites.parse((text or b"").decode())


def waits_for(redis: fakeredis.FakeRedis, *sites: str, least: int) -> None:
    wait_until(lambda: (found := awaited(redis)) is not None and (found.sites, found.least) == (sites, least))


def test_a_controller_begins_when_all_sites_of_the_job_have_joined(job: JobRuns, redis: fakeredis.FakeRedis) -> None:
    controller = Asking()
    server = job.serve(controller, participants=["a", "b"])
    waits_for(redis, "a", "b", least=1)
    job.join("a")
    job.joined("a")
    waits_for(redis, "b", least=0)
    assert not controller.begun.is_set()
    job.join("b")
    assert job.outcome().status == COMPLETED
    assert sorted(controller.there) == ["a", "b"]
    assert awaited(redis) is None
    assert server.engine.get_clients()


def test_after_the_stated_wait_min_clients_are_enough(job: JobRuns, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    controller = Asking()
    job.serve(controller, participants=["a", "b", "c"], job_meta={"min_clients": 2}, join_wait=0.2)
    job.join("a")
    job.joined("a")
    wait_until(lambda: "waiting for 1 more site to join: b, c" in caplog.text)
    assert not controller.begun.is_set()
    job.join("b")
    assert job.outcome().status == COMPLETED
    assert sorted(controller.there) == ["a", "b"]
    assert "job begins without c, which may still join" in caplog.text


def test_a_mandatory_site_is_awaited_however_long_it_takes(job: JobRuns, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    controller = Asking()
    meta = {"min_clients": 1, "mandatory_clients": ["b"]}
    job.serve(controller, participants=["a", "b", "c"], job_meta=meta, join_wait=0.1)
    job.join("a")
    job.joined("a")
    wait_until(lambda: "waiting for 1 more site to join: b" in caplog.text)
    assert not controller.begun.is_set()
    job.join("b")
    assert job.outcome().status == COMPLETED
    assert sorted(controller.there) == ["a", "b"]


def test_min_clients_of_a_job_without_known_sites_are_awaited(job: JobRuns, redis: fakeredis.FakeRedis) -> None:
    controller = Asking()
    job.serve(controller, job_meta={"min_clients": 2})
    waits_for(redis, least=2)
    job.join("a")
    waits_for(redis, least=1)
    assert not controller.begun.is_set()
    job.join("b")
    assert job.outcome().status == COMPLETED
    assert sorted(controller.there) == ["a", "b"]


def test_a_site_that_has_failed_is_awaited_no_longer(job: JobRuns, redis: fakeredis.FakeRedis) -> None:
    controller = Asking()
    server = job.serve(controller, participants=["a", "b"])
    job.join("a")
    waits_for(redis, "b", least=0)
    server.expect(["a"])
    assert job.outcome().status == COMPLETED
    assert controller.there == ["a"]


@pytest.mark.parametrize("how", ["abort", "leave"])
def test_the_wait_ends_with_the_run(job: JobRuns, redis: fakeredis.FakeRedis, how: str) -> None:
    flowed: list[Signal] = []

    def flow(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        flowed.append(abort)

    server = job.serve(flow, participants=["a"])
    waits_for(redis, "a", least=1)
    getattr(server, how)("enough")
    assert job.outcome().reason == "enough"
    assert not flowed


def test_a_controller_that_resumes_does_not_wait_again(job: JobRuns) -> None:
    first, second = Rounds(1, 10, ["a"]), Rounds(1, 10, ["a"])
    server = job.serve(first, participants=["a"])
    with RawSite(job, "a") as site:
        task_id = site.get_task().meta["task_id"]
        server.leave()
        job.outcome()
        job.serve(second, participants=["a", "never"])
        assert site.submit("train", task_id, model(1.0, 10)).meta["verdict"] == "ACCEPT"
        assert job.outcome().status == COMPLETED


def test_people_see_for_whom_a_job_waits(job: JobRuns, redis: fakeredis.FakeRedis) -> None:
    server: ServerJob = job.serve(Asking(), participants=["a", "b"])
    job.join("a")
    waits_for(redis, "b", least=0)
    with Server.connect(client=redis) as connected:
        [view] = JobInspector(connected, Keys("flare")).find("job")
    assert view.waiting.startswith("waiting for b to join; begins without it in ")
    assert view.to_json()["awaited"] == {"sites": ("b",), "least": 0, "until": view.awaited.until}  # type: ignore[union-attr]
    server.abort()
    assert job.outcome().status == ABORTED


def test_what_is_awaited_is_written_again_when_redis_has_lost_it(job: JobRuns, redis: fakeredis.FakeRedis) -> None:
    server = job.serve(Asking(), participants=["a", "b"])
    waits_for(redis, "a", "b", least=1)
    redis.flushall()
    wait_until(lambda: serving(server).registration.generation)
    job.join("a")
    waits_for(redis, "b", least=0)
    job.join("b")
    assert job.outcome().status == COMPLETED


@pytest.mark.parametrize(
    ("participants", "meta", "joined", "until", "expected"),
    [
        ("", {}, "", 9, None),
        ("", {"min_clients": 2}, "a", 9, AwaitedSites(least=1)),
        ("", {"mandatory_clients": ["b"]}, "a", 9, AwaitedSites(sites=("b",), least=1)),
        ("a b", {}, "", 9, AwaitedSites(sites=("a", "b"), least=1, until=9)),
        ("a b", {}, "a", 9, AwaitedSites(sites=("b",), least=0, until=9)),
        ("a b", {}, "a", 0, None),
        ("a b", {}, "", 0, AwaitedSites(sites=("a", "b"), least=1)),
        ("a b", {"min_clients": None}, "a b", 9, None),
        ("a b c", {"min_clients": 2, "mandatory_clients": ["c"]}, "a b", 0, AwaitedSites(sites=("c",), least=1)),
        (
            "a b c d",
            {"min_clients": 3, "mandatory_clients": ["d"]},
            "a",
            0,
            AwaitedSites(sites=("d", "b", "c"), least=2),
        ),
        ("a b", {"min_clients": 2}, "a x", 0, None),
    ],
)
def test_who_is_missing(
    participants: str, meta: dict[str, Any], joined: str, until: int, expected: AwaitedSites | None
) -> None:
    assert Attendance.of(meta, participants.split()).missing(joined.split(), until) == expected


@pytest.mark.parametrize(
    ("awaited_sites", "text"),
    [
        (AwaitedSites(least=2), "waiting for 2 more sites to join"),
        (AwaitedSites(sites=("a", "b"), least=1), "waiting for 1 more site to join: a, b"),
        (AwaitedSites(sites=("a",), until=41_000), "waiting for a to join; begins without it in 40 s"),
        (AwaitedSites(sites=("a", "b"), until=41_000), "waiting for a, b to join; begins without them in 40 s"),
        (
            AwaitedSites(sites=tuple("abcde"), least=1, until=41_000),
            "waiting for a, b, c and 2 more to join, 1 of them at least; begins without the others in 40 s",
        ),
        (AwaitedSites(sites=("a",), least=1, until=41_000), "waiting for 1 more site to join: a"),
    ],
)
def test_the_sentence_says_for_whom_and_how_long(awaited_sites: AwaitedSites, text: str) -> None:
    assert awaited_sites.describe(1_000) == text
    assert AwaitedSites.parse(awaited_sites.to_json().decode()) == awaited_sites
