"""The view of a job, read from the keys that its server and its sites have written."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import fakeredis
import orjson
import pytest
from redflare_broker.errors import ConfigError
from redflare_broker.inspection.federation import Inspector
from redflare_broker.inspection.job_view import JobView, SiteView
from redflare_broker.inspection.jobs import MOST_ENDED, JobInspector
from redflare_broker.keys import Keys, room_note
from redflare_broker.payload.encoded_payload import EncodedPayload
from redflare_broker.payload.redis_store import RedisPayloadStore
from redflare_broker.payload.room import RoomWait
from redflare_broker.transport.server import Server

from tests.support.job.live_bench import LiveJobBench, scheduled
from tests.support.job.state import small
from tests.support.link.steps import LinkSteps


@pytest.fixture
def bench() -> Iterator[LiveJobBench]:
    redis = fakeredis.FakeRedis(server=fakeredis.FakeServer())
    with Server.connect(client=redis) as server, server.borrow("any") as connection:
        yield LiveJobBench(server, connection)


def jobs(bench: LiveJobBench, namespace: str = "flare") -> JobInspector:
    return JobInspector(bench.server, Keys(namespace))


def read(bench: LiveJobBench) -> JobView:
    [job] = jobs(bench).find("job-1")
    return job


def site(job: JobView, name: str) -> SiteView:
    return next(each for each in job.sites if each.name == name)


def test_without_jobs_nothing_is_found(bench: LiveJobBench) -> None:
    assert jobs(bench).all() == jobs(bench).find("job-1") == []


def test_a_job_is_found_by_its_id_and_by_the_name_of_its_server(bench: LiveJobBench) -> None:
    bench.run_server()

    for name in ("job-1", "server.job-1"):
        assert [job.fqcn for job in jobs(bench).find(name)] == ["server.job-1"]
    assert jobs(bench).find("job-2") == jobs(bench).find("server") == jobs(bench, "other").all() == []
    with pytest.raises(ConfigError, match="'a b'"):
        jobs(bench).find("a b")


def test_the_server_is_seen_with_its_run(bench: LiveJobBench) -> None:
    bench.run_server()
    bench.run_server()

    job = read(bench)

    assert (job.status, job.run, job.began, job.previous) == ("RUNNING", "r2", "RESUMED", "r1")
    assert (job.server.state, job.server.instance, job.server.place) == ("connected", "s2", "hub:42")
    assert job.server.beat_age == pytest.approx(0, abs=1)
    assert job.waiting == "waiting for sites: none has joined"


def test_a_server_without_heartbeats_is_silent_then_gone(bench: LiveJobBench) -> None:
    bench.run_server()
    bench.connection.call("HINCRBY", bench.keys.cell, "since", -100_000)
    bench.server_beats(age_ms=40_000)
    assert read(bench).waiting == "waiting for a server (last one: silent for 40 s)"

    bench.connection.call("DEL", bench.keys.server_heartbeat)
    assert read(bench).waiting == "waiting for a server (last one: no heartbeat found)"

    bench.connection.call("HSET", bench.keys.cell, "closed", bench.now_ms() - 12_000)
    assert read(bench).waiting == "waiting for a server (last one: left 12 s ago)"


@pytest.mark.parametrize("beat", ["no JSON", "[]", "{}", '{"instance": "s0", "ttl_ms": 60000}'])
def test_a_heartbeat_of_another_instance_is_ignored(bench: LiveJobBench, beat: str) -> None:
    bench.run_server()
    bench.connection.call("HINCRBY", bench.keys.cell, "since", -100_000)
    bench.connection.call("SET", bench.keys.server_heartbeat, beat)

    assert read(bench).server.state == "gone"


def test_sites_that_join_before_the_server_are_seen(bench: LiveJobBench) -> None:
    bench.site("site-1")

    [job] = jobs(bench).all()

    assert (job.status, job.server.state, job.waiting) == (
        "",
        "never",
        "waiting for a server (none seen yet)",
    )
    assert [each.name for each in job.sites] == ["site-1"]


def test_sites_are_connected_silent_gone_or_have_left(bench: LiveJobBench) -> None:
    bench.run_server()
    bench.site("site-1")
    bench.silence(bench.site("site-2"))
    bench.silence(bench.site("site-3"), age_ms=60_000)
    bench.membership.leave(bench.connection, bench.site("site-4"))
    bench.joined("site-5")

    job = read(bench)

    states = [(each.name, each.presence.state) for each in job.sites]
    assert states == [
        ("site-1", "connected"),
        ("site-2", "silent"),
        ("site-3", "gone"),
        ("site-4", "left"),
        ("site-5", "connected"),  # it has joined just now
    ]
    assert site(job, "site-2").presence.beat_age == pytest.approx(40, abs=1)
    assert (site(job, "site-1").cell, site(job, "site-1").presence.place) == ("site-1.job-1", "gpu-1:7")
    assert job.connected == 2


def test_a_site_is_shown_with_its_work(bench: LiveJobBench) -> None:
    store = bench.run_server()
    requesting, working, submitting = bench.site("site-1"), bench.site("site-2"), bench.site("site-3")
    standing = scheduled()
    store.schedule(standing)
    bench.add_request(requesting)
    bench.give_task(store, standing, working, count=2)
    share = bench.give_task(store, standing, submitting)
    bench.add_request(submitting, "submit", task_id=share.id)

    job = read(bench)

    assert job.now - site(job, "site-1").requested < 2_000
    [(root_id, name, work)] = site(job, "site-2").working_on
    assert (root_id, name, work.record.id, work.record.count) == ("t1", "train", "t1-site-2", 2)
    assert list(site(job, "site-3").submitted) == [share.id]
    assert job.inbox == 2
    assert "site-3 (submitted its result" in job.tasks[0].waiting


def test_requests_of_a_process_that_was_replaced_and_foreign_entries_do_not_count(bench: LiveJobBench) -> None:
    bench.run_server()
    old = bench.site("site-1")
    bench.add_request(replace(old, instance="site-1:6:z"))
    bench.write("site-1", "hello", "world")
    bench.write("site-1", "kind", "request", "meta", "[1]", "topic", "get_task")

    job = read(bench)

    assert (site(job, "site-1").requested, job.inbox) == (0, 3)


def test_of_several_requests_for_a_task_the_last_counts(bench: LiveJobBench) -> None:
    bench.run_server()
    lease = bench.site("site-1")
    for entry in ("5-0", "7-0"):
        bench.add_request(lease, entry=entry)

    assert read(bench).sites[0].requested == 7


def test_a_result_that_is_submitted_again_has_waited_since_the_first_time(bench: LiveJobBench) -> None:
    bench.run_server()
    lease = bench.site("site-1")
    for entry in ("5-0", "7-0"):
        bench.add_request(lease, "submit", entry=entry, task_id="ct1")

    assert read(bench).sites[0].submitted == {"ct1": 5}


def test_a_long_inbox_is_read_page_by_page(bench: LiveJobBench) -> None:
    bench.run_server()
    for _ in range(600):
        bench.write("site-1", "kind", "event")
    bench.add_request(bench.site("site-1"))

    assert read(bench).sites[0].requested


def test_open_tasks_come_in_their_order_with_the_share_of_every_site(bench: LiveJobBench) -> None:
    store = bench.run_server()
    one, two = bench.site("site-1"), bench.site("site-2")
    relay = scheduled(
        "t2", "test", "relay", order=2, targets=("site-2", "site-1"), options={"send_order": "sequential"}
    )
    first = scheduled(timeout=60, targets=("site-1", "site-2", "site-3"), options={"min_responses": 3})
    store.schedule(relay)
    store.schedule(first)
    done = replace(bench.give_task(store, first, one), received=time.time(), rc="OK", result=small())
    store.note("t1", [done])
    bench.give_task(store, first, two)

    train, test = read(bench).tasks

    assert [train.record.name, test.record.name] == ["train", "test"]
    assert (train.record.kind, train.record.targets, dict(train.record.options)) == (
        "broadcast",
        ("site-1", "site-2", "site-3"),
        {"min_responses": 3},
    )
    assert 50 < (train.timeout_left or 0) <= 60
    assert ([each.site for each in train.answered], [each.site for each in train.pending]) == (["site-1"], ["site-2"])
    assert train.not_sent == ("site-3",)
    assert train.waiting.startswith("waiting for 2 more of at least 3 results: site-2 (sent ")
    assert test.waiting.startswith("next in the relay: waiting for site-2 (working on 'train'")
    assert test.timeout_left is None


def test_data_of_a_task_is_measured_and_not_read(bench: LiveJobBench) -> None:
    store = bench.run_server()
    chunks = RedisPayloadStore(bench.server).put("flare:blob:{b1}", [memoryview(bytes(25))], chunk=10, ttl_ms=60_000)
    store.schedule(scheduled("t1", data=EncodedPayload(b"[1]", blob=chunks)))
    store.schedule(scheduled("t2", order=2, data=EncodedPayload(b"[12]", (b"abcdef",))))
    store.schedule(scheduled("t3", order=3))
    large, inline, none = read(bench).tasks
    assert (large.size, large.blob, large.blob_bytes, large.stored) == (28, "flare:blob:{b1}", 25, 25)
    assert (inline.size, inline.blob) == (10, "")
    assert (none.size, none.blob) == (0, "")

    bench.connection.call("DEL", "flare:blob:{b1}:1")
    [large, *_] = read(bench).tasks
    assert large.stored == 15
    assert "its data is no longer in Redis" in large.waiting


def test_the_last_tasks_that_ended_are_remembered_the_newest_first(bench: LiveJobBench) -> None:
    store = bench.run_server(resume=False)
    store.resume = False
    begun = time.time()
    for number in range(MOST_ENDED + 2):
        store.schedule(scheduled(f"t{number}", order=number, scheduled=begun))
        store.finish(f"t{number}", "timeout" if number else "ok", begun + number)

    job = read(bench)

    assert job.tasks == ()
    assert [task.record.root_id for task in job.ended_tasks] == [
        f"t{number}" for number in range(MOST_ENDED + 1, 1, -1)
    ]
    assert {(task.record.status, task.waiting) for task in job.ended_tasks} == {("timeout", "")}
    assert jobs(bench).all()[0].ended_tasks == ()


def test_a_job_that_has_ended_shows_how(bench: LiveJobBench) -> None:
    bench.run_server()
    bench.membership.end(bench.connection, bench.lease, "FINISHED:ABORTED", "FINISHED:ABORTED: by me")

    job = read(bench)

    assert (job.runs, job.waiting) == (False, "FINISHED:ABORTED 0 s ago: by me")


def test_a_task_of_a_job_is_no_task_of_an_agent(bench: LiveJobBench) -> None:
    bench.run_server().schedule(scheduled())

    assert Inspector(bench.server).task("t1") == []
    assert jobs(bench).with_task("t1") == ["job-1"]
    assert jobs(bench).with_task("t2") == []


@pytest.mark.parametrize("command", [("SET", "{}"), ("RPUSH", "x"), ("DEL",)], ids=lambda words: words[0])
def test_a_record_that_cannot_be_read_hides_no_other_site(bench: LiveJobBench, command: tuple[str, ...]) -> None:
    bench.run_server()
    for name in ("site-1", "site-2"):
        bench.site(name)
    bench.connection.call("DEL", bench.keys.client("site-1"))
    bench.connection.call(command[0], bench.keys.client("site-1"), *command[1:])

    assert [found.name for found in read(bench).sites] == ["site-2"]


def test_the_status_of_a_federation_contains_its_jobs(bench: LiveJobBench) -> None:
    bench.run_server().schedule(scheduled())

    status = Inspector(bench.server).status()

    assert (status.links, [job.fqcn for job in status.jobs]) == ((), ["server.job-1"])


def test_a_job_is_converted_to_json(bench: LiveJobBench) -> None:
    store = bench.run_server()
    standing = scheduled(targets=("site-1", "site-2"))
    store.schedule(standing)
    bench.give_task(store, standing, bench.site("site-1"))

    document: dict[str, Any] = orjson.loads(orjson.dumps(read(bench).to_json()))

    assert (document["job_id"], document["server"]["state"]) == ("job-1", "connected")
    [train] = document["tasks"]
    assert train["not_sent"] == ["site-2"]
    assert train["client_tasks"][0]["site"] == "site-1"
    assert train["waiting"].startswith("waiting for 2 sites: ")
    [site_1] = document["sites"]
    assert (site_1["working_on"][0]["task"], site_1["presence"]["connected"]) == ("train", True)


# -- agents ------------------------------------------------------------------------------------------------------------


def test_a_task_is_shown_as_it_stands_at_the_agent_of_its_site(bench: LiveJobBench) -> None:
    store = bench.run_server()
    store.schedule(task := scheduled())
    lease = bench.site("site-1")
    given = bench.give_task(store, task, lease)
    link = LinkSteps(bench.server, "site-1--trainer")
    link.both()
    link.assign(given.id)
    link.take(given.id)

    for job in (read(bench), jobs(bench).all()[0], Inspector(bench.server).status().jobs[0]):
        at_agent = site(job, "site-1").at_agent[given.id]
        assert (at_agent.fqcn, at_agent.status, at_agent.attempt, at_agent.agent) == (
            *("site-1--trainer", "FETCHED", 1, "connected"),
        )
        assert "FETCHED" not in job.waiting
        assert job.trouble == ""

    link.hello("agent", "other-host:300:c")
    link.take(given.id)
    link.beat("agent", age_ms=40_000, left_ms=20_000)
    bench.connection.call("HINCRBY", link.keys.link, "agent_since", -100_000)

    job = read(bench)
    expected = (
        r"FETCHED for [^,]+, attempt 2: the agent is silent \(last heartbeat .* ago\), a new instance would get it"
    )
    assert re.search(expected, job.waiting)
    assert job.trouble == "site-1: attempt 2, agent silent"
    assert re.fullmatch(expected, site(job, "site-1").at_agent[given.id].waiting)
    assert orjson.loads(orjson.dumps(job.to_json()))["sites"][0]["at_agent"][given.id]["attempt"] == 2


def test_the_agents_of_other_sites_and_other_tasks_are_not_shown(bench: LiveJobBench) -> None:
    store = bench.run_server()
    store.schedule(task := scheduled())
    given = bench.give_task(store, task, bench.site("site-1"))
    for fqcn, task_id in (("site-11--trainer", given.id), ("site-1--other", "t2")):
        link = LinkSteps(bench.server, fqcn)
        link.both()
        link.assign(task_id)

    assert site(read(bench), "site-1").at_agent == {}


def test_an_agent_of_a_site_with_dashes_in_its_name_is_found(bench: LiveJobBench) -> None:
    store = bench.run_server()
    store.schedule(task := scheduled())
    given = bench.give_task(store, task, bench.site("north--site"))
    link = LinkSteps(bench.server, "north--site--trainer")
    link.both()
    link.assign(given.id)

    assert site(read(bench), "north--site").at_agent[given.id].fqcn == "north--site--trainer"


# -- payloads that do not fit ------------------------------------------------------------------------------------------


def wait_for_room(bench: LiveJobBench, prefix: str, host: str = "hub", pid: int = 42) -> None:
    note = RoomWait(prefix=prefix, host=host, pid=pid, nbytes=20_000_000, seconds=5.0).to_note()
    bench.connection.call("SET", room_note(prefix), note, "PX", 15_000)


def test_a_payload_of_the_server_that_does_not_fit_is_its_trouble(bench: LiveJobBench) -> None:
    bench.run_server()
    wait_for_room(bench, "flare:{server.job-1}:blob:a")

    assert read(bench).trouble == "server: 20.0 MB do not fit into Redis"


@pytest.mark.parametrize(
    ("prefix", "pid"),
    [("flare:{server.job-2}:blob:a", 42), ("flare:{server.job-1}:blob:a", 43)],
)
def test_a_payload_of_another_job_or_process_is_not_the_trouble_of_the_server(
    bench: LiveJobBench, prefix: str, pid: int
) -> None:
    bench.run_server()
    wait_for_room(bench, prefix, pid=pid)

    assert read(bench).trouble == ""


@pytest.mark.parametrize("writer", ["site-1.job-1", "site-1--trainer"])
def test_a_result_that_does_not_fit_is_the_trouble_of_its_site(bench: LiveJobBench, writer: str) -> None:
    store = bench.run_server()
    store.schedule(task := scheduled())
    given = bench.give_task(store, task, bench.site("site-1"))
    link = LinkSteps(bench.server, "site-1--trainer")
    link.both()
    link.assign(given.id)
    wait_for_room(bench, f"flare:{{{writer}}}:blob:a", "gpu-1")

    job = read(bench)

    assert job.trouble == "site-1: 20.0 MB do not fit into Redis"
    assert "its result of 20.0 MB does not fit into Redis" in job.waiting
