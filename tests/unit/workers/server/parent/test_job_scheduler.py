"""Which job runs on which sites, and why another waits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from redflare_workers.jobs.job_meta import JobMeta
from redflare_workers.server.parent.job_scheduler import Candidate, PlacedJob, SchedulableSite, plan


def meta(*sites: str, **more: Any) -> JobMeta:
    return JobMeta(name="job", deploy_map={"app": ("server", *(sites or ("@ALL",)))}, **more)


def job(name: str, *sites: str, **more: Any) -> Candidate:
    return Candidate(id=name, meta=meta(*sites, **more))


def sites(*names: str, **capacities: Mapping[str, float]) -> list[SchedulableSite]:
    found = [SchedulableSite(name=name) for name in names]
    return found + [SchedulableSite(name=name, capacity=capacity) for name, capacity in capacities.items()]


def test_a_job_for_all_begins_on_all_sites_that_are_there() -> None:
    decided = plan([job("one", min_clients=2)], [*sites("b", "a"), SchedulableSite(name="c", alive=False)])
    assert decided.begin == {"one": ("a", "b")}
    assert decided.waiting == {}


def test_a_job_for_some_begins_on_those_as_soon_as_there_are_enough() -> None:
    decided = plan([job("one", "a", "b", "x", min_clients=2)], sites("a", "b", "c"))
    assert decided.begin == {"one": ("a", "b")}


def test_with_too_few_sites_the_reason_names_the_missing_ones() -> None:
    decided = plan([job("one", "a", "b", "x", min_clients=2)], [*sites("a"), SchedulableSite(name="b", alive=False)])
    assert decided.begin == {}
    assert decided.waiting == {
        "one": "waiting for sites: 1 of at least 2 can take the job (a); not connected: b, x",
    }


def test_without_sites_a_job_waits() -> None:
    assert plan([job("one")], []).waiting == {"one": "waiting for sites: 0 of at least 1 can take the job"}


def test_a_mandatory_site_is_waited_for() -> None:
    one = job("one", min_clients=1, mandatory_clients=("m", "n"))
    decided = plan([one], [*sites("a", "b"), SchedulableSite(name="n", alive=False)])
    assert decided.waiting == {"one": "waiting for m (mandatory, never connected), n (mandatory, disconnected)"}
    assert plan([one], sites("a", "m", "n")).begin == {"one": ("a", "m", "n")}


def test_a_job_that_waits_for_sites_does_not_hold_up_another() -> None:
    decided = plan([job("first", "x"), job("second")], sites("a"))
    assert decided.begin == {"second": ("a",)}
    assert set(decided.waiting) == {"first"}


def test_several_jobs_share_a_site_that_declares_no_capacity() -> None:
    gpu = {"@ALL": {"gpu": 1}}
    decided = plan([job("first", resource_spec=gpu), job("second", resource_spec=gpu)], sites("a"))
    assert decided.begin == {"first": ("a",), "second": ("a",)}


def test_resources_of_a_running_job_are_not_free() -> None:
    spec = {"@ALL": {"gpu": 1}, "a": {"gpu": 2}}
    running = PlacedJob(id="old", meta=meta(resource_spec=spec), sites=("a",))
    decided = plan([job("new", resource_spec=spec, min_clients=1)], sites(a={"gpu": 3}), [running])
    assert decided.waiting == {
        "new": "waiting for sites: 0 of at least 1 can take the job; a has 1 of 3 gpu free, the job needs 2"
    }


def test_an_agent_has_one_job_at_a_time() -> None:
    running = PlacedJob(id="old", meta=meta(agent_id="trainer"), sites=("a",))
    waiting = [
        job("second", min_clients=2, agent_id="trainer"),
        job("third", "b", agent_id="trainer"),
        job("other", agent_id="gpu-2"),
        job("none"),
    ]
    decided = plan(waiting, sites("a", "b"), [running])
    assert decided.begin == {"other": ("a", "b"), "none": ("a", "b")}
    assert decided.waiting == {
        "second": "waiting for sites: 1 of at least 2 can take the job (b); agent trainer of a is busy with job old",
        "third": "waiting for sites: 0 of at least 1 can take the job; agent trainer of b is busy with job second",
    }
    assert plan(waiting[:2], sites("a", "b")).begin == {"second": ("a", "b")}


def test_a_job_goes_to_the_sites_that_have_enough() -> None:
    decided = plan([job("one", resource_spec={"@ALL": {"gpu": 2}})], sites("c", a={"gpu": 1}, b={"gpu": 2}))
    assert decided.begin == {"one": ("b", "c")}


def test_a_site_without_a_resource_never_gets_the_job() -> None:
    decided = plan([job("one", resource_spec={"a": {"gpu": 1}})], sites(a={"memory": 8}))
    assert decided.waiting["one"].endswith("a has 0 gpu in total, the job needs 1")


def test_a_large_job_is_not_starved_by_small_ones() -> None:
    running = PlacedJob(id="small-1", meta=meta(resource_spec={"@ALL": {"gpu": 1}}), sites=("a",))
    waiting = [job("large", resource_spec={"@ALL": {"gpu": 2}}), job("small-2", resource_spec={"@ALL": {"gpu": 1}})]
    decided = plan(waiting, sites(a={"gpu": 2}), [running])
    assert decided.begin == {}
    assert "0 of 2 gpu free" in decided.waiting["small-2"]


def test_a_job_that_can_never_run_there_claims_nothing() -> None:
    waiting = [job("huge", resource_spec={"@ALL": {"gpu": 8}}), job("small", resource_spec={"@ALL": {"gpu": 1}})]
    assert plan(waiting, sites(a={"gpu": 2})).begin == {"small": ("a",)}


def test_no_more_jobs_run_than_the_server_allows() -> None:
    running = PlacedJob(id="old", meta=meta(), sites=("a",))
    decided = plan([job("one"), job("two")], sites("a"), [running], max_jobs=2)
    assert decided.begin == {"one": ("a",)}
    assert decided.waiting == {"two": "waiting for a slot: 2 of at most 2 jobs are running"}


def test_many_missing_sites_are_not_all_named() -> None:
    names = [f"s{number}" for number in range(9)]
    assert plan([job("one", *names)], []).waiting["one"].endswith("s0, s1, s2, s3, s4, and 4 more")


# -- sites that join a job that runs -----------------------------------------------------------------------------------


def running(name: str, *of: str, is_open: bool = True, at: tuple[str, ...] = ("a",), **more: Any) -> PlacedJob:
    return PlacedJob(id=name, meta=meta(*of, **more), sites=at, is_open=is_open)


def test_a_site_that_connects_joins_the_jobs_that_are_for_it() -> None:
    here = [*sites("c", "b", "a"), SchedulableSite(name="d", alive=False)]
    some = [running("all"), running("named", "a", "c", "d"), running("others", "a"), running("over", is_open=False)]
    assert plan([], here, some).join == {"all": ("b", "c"), "named": ("c",)}


def test_a_site_joins_only_where_it_has_the_resources_and_the_agent_is_free() -> None:
    gpu = {"@ALL": {"gpu": 1}}
    here = sites("a", b={"gpu": 1}, c={"gpu": 2})
    jobs = [running("one", resource_spec=gpu), running("two", resource_spec=gpu)]
    assert plan([], here, jobs).join == {"one": ("b", "c"), "two": ("c",)}
    agents = [running("one", agent_id="x", at=("a", "b")), running("two", agent_id="x", at=("c",))]
    assert plan([], sites("a", "b", "c", "d"), agents).join == {"one": ("d",)}


def test_a_job_that_waits_comes_before_one_that_runs() -> None:
    gpu = {"@ALL": {"gpu": 1}}
    decided = plan([job("next", "b", resource_spec=gpu)], sites("a", b={"gpu": 1}), [running("one", resource_spec=gpu)])
    assert (decided.begin, decided.join) == ({"next": ("b",)}, {})


def test_an_agent_that_the_config_of_an_app_names_has_one_job_at_a_time() -> None:
    named = {"app": ("x", "y")}
    old = PlacedJob(id="old", meta=meta(agents=named), sites=("a",))
    decided = plan([job("by config", agents={"app": ("y",)}), job("by meta", agent_id="x")], sites("a"), [old])
    assert decided.waiting == {
        "by config": "waiting for sites: 0 of at least 1 can take the job; agent y of a is busy with job old",
        "by meta": "waiting for sites: 0 of at least 1 can take the job; agent x of a is busy with job old",
    }
    assert plan([job("other", agents={"other app": ("x",)})], sites("a"), [old]).begin == {"other": ("a",)}
