"""The views of every state that a link can be in."""

from __future__ import annotations

import re
from collections.abc import Iterator

import fakeredis
import orjson
import pytest
from redflare_broker.errors import ConfigError
from redflare_broker.inspection.federation import Inspector, LinkStatus
from redflare_broker.keys import Keys
from redflare_broker.transport.server import Server

from tests.support.link.steps import LinkSteps


@pytest.fixture
def server() -> Iterator[Server]:
    with Server.connect(client=fakeredis.FakeRedis()) as server:
        yield server


@pytest.fixture
def link(server: Server) -> LinkSteps:
    return LinkSteps(server)


@pytest.fixture
def inspector(server: Server) -> Inspector:
    return Inspector(server)


def read(inspector: Inspector, link: LinkSteps) -> LinkStatus:
    return inspector.link(link.fqcn)


def reason(status: LinkStatus) -> str:
    """Why the task waits, without the seconds."""
    return re.sub(r"(for|last heartbeat) [0-9.]+ s", r"\1 a while", status.waiting)


def test_an_empty_redis_has_no_links(inspector: Inspector) -> None:
    assert inspector.status().links == ()
    assert inspector.link("site-1--trainer").agent.state == "never"


def test_a_connected_link_without_a_task_waits_for_nothing(inspector: Inspector, link: LinkSteps) -> None:
    link.both()

    status = read(inspector, link)

    assert (status.agent.state, status.cj.state) == ("connected", "connected")
    assert (status.agent.host, status.agent.pid, status.agent.place) == ("agent-host", 200, "agent-host:200")
    assert (status.task, reason(status)) == (None, "")


def test_links_are_found_by_scan_and_by_the_list_of_agents(inspector: Inspector, server: Server) -> None:
    LinkSteps(server, "b.job.x").both()
    LinkSteps(server, "a--x").register()
    LinkSteps(server, "c--x").hello("cj", "h:1:a")

    assert [link.fqcn for link in inspector.status().links] == ["a--x", "b.job.x", "c--x"]


def test_keys_of_other_namespaces_and_foreign_names_are_not_links(inspector: Inspector, server: Server) -> None:
    with server.borrow("x") as connection:
        connection.call("HSET", "other:{a--x}:link", "task", "")
        connection.call("HSET", "flare:{not legal}:link", "task", "")
        connection.call("ZADD", "flare:agents", 1, "not legal")

    assert inspector.status().links == ()


def test_a_task_waits_for_an_agent_that_was_never_seen(inspector: Inspector, link: LinkSteps) -> None:
    link.hello("cj", "cj-host:100:a")
    link.assign("t1")

    assert reason(read(inspector, link)) == "NEW for a while: no agent is connected (none seen yet)"


def test_a_task_waits_for_an_agent_that_is_gone(inspector: Inspector, link: LinkSteps, server: Server) -> None:
    link.both()
    link.assign("t1")
    with server.borrow(link.keys.link) as connection:
        connection.call("DEL", link.keys.heartbeat("agent"))
        connection.call("HINCRBY", link.keys.link, "agent_since", -200_000)

    status = read(inspector, link)

    assert status.agent.state == "gone"
    assert reason(status) == "NEW for a while: no agent is connected (last heartbeat 3 min ago)"


def test_the_list_of_agents_knows_when_a_gone_agent_was_last_seen(
    inspector: Inspector, link: LinkSteps, server: Server
) -> None:
    link.both()
    link.register()
    with server.borrow(link.keys.link) as connection:
        connection.call("DEL", link.keys.heartbeat("agent"))
        connection.call("HINCRBY", link.keys.link, "agent_since", -200_000)
        connection.call("ZINCRBY", Keys().agents, -65, link.fqcn)

    assert read(inspector, link).agent.absence == "no agent is connected (last heartbeat 1 min ago)"


def test_an_agent_that_misses_heartbeats_is_silent(inspector: Inspector, link: LinkSteps, server: Server) -> None:
    link.both()
    link.assign("t1")
    link.take("t1")
    with server.borrow(link.keys.link) as connection:
        connection.call("HINCRBY", link.keys.link, "agent_since", -200_000)
    link.beat("agent", interval=5.0, age_ms=20_000, left_ms=40_000)

    status = read(inspector, link)

    assert status.agent.state == "silent"
    assert status.agent.beat_age == pytest.approx(20, abs=1)
    assert (
        reason(status)
        == "FETCHED for a while: the agent is silent (last heartbeat a while ago), a new instance would get it"
    )


@pytest.mark.parametrize(("age_ms", "state"), [(14_000, "connected"), (16_000, "silent")])
def test_a_side_is_silent_when_more_than_three_of_its_heartbeats_are_missing(
    inspector: Inspector, link: LinkSteps, server: Server, age_ms: int, state: str
) -> None:
    link.both()
    with server.borrow(link.keys.link) as connection:
        connection.call("HINCRBY", link.keys.link, "agent_since", -200_000)
    link.beat("agent", interval=5.0, age_ms=age_ms, left_ms=40_000)

    assert read(inspector, link).agent.state == state


def test_a_side_that_disconnected_has_left(inspector: Inspector, link: LinkSteps) -> None:
    link.both()
    link.assign("t1")
    link.bye("agent")

    status = read(inspector, link)

    assert status.agent.state == "left"
    assert reason(status) == "NEW for a while: no agent is connected (it left)"


def test_a_heartbeat_of_a_replaced_instance_does_not_count(inspector: Inspector, link: LinkSteps) -> None:
    link.both()
    link.hello("agent", "other-host:300:c")

    agent = read(inspector, link).agent

    assert (agent.instance, agent.place, agent.host) == ("other-host:300:c", "other-host:300", "")


def test_a_heartbeat_that_is_not_ours_is_no_error(inspector: Inspector, link: LinkSteps, server: Server) -> None:
    link.both()
    with server.borrow(link.keys.link) as connection:
        for junk in (b"\xff", b"[]", b'{"instance": "agent-host:200:b", "pid": "many", "interval": []}'):
            connection.call("SET", link.keys.heartbeat("agent"), junk, "PX", 1000)
            assert read(inspector, link).agent.pid == 0


def test_a_fetched_task_names_its_agent(inspector: Inspector, link: LinkSteps) -> None:
    link.both()
    link.assign("t1")
    link.take("t1")

    assert reason(read(inspector, link)) == "FETCHED for a while by agent-host:200"


def test_a_task_fetched_by_a_replaced_instance_names_the_next_one(inspector: Inspector, link: LinkSteps) -> None:
    link.both()
    link.assign("t1")
    link.take("t1")
    link.hello("agent", "other-host:300:c")

    assert (
        reason(read(inspector, link))
        == "FETCHED for a while by an instance that has been replaced: the new one (other-host:300) gets it next"
    )


def test_a_submitted_task_waits_for_the_cj(inspector: Inspector, link: LinkSteps) -> None:
    link.both()
    link.assign("t1")
    link.take("t1")
    link.submit("t1")
    assert reason(read(inspector, link)) == "SUBMITTED for a while: the CJ (cj-host:100) has not taken the result yet"

    link.bye("cj")

    assert reason(read(inspector, link)) == "SUBMITTED for a while: the CJ is not connected (it left)"


def test_queues_and_payload_are_counted(inspector: Inspector, link: LinkSteps, server: Server) -> None:
    link.both()
    link.assign("t1", blob=link.store(link.keys.task_blob("b1"), 1000, 500))
    link.take("t1")
    link.bury(link.keys.tasks, "foreign", "a", "b")
    link.store(link.keys.result_blob("r1"), 300)
    other = LinkSteps(server, "site-2--trainer")
    other.both()
    other.assign("t2", blob=other.store(link.keys.task_blob("b1"), 1000, 500))

    status = inspector.status()

    first, second = status.links
    assert (first.tasks, first.results, first.dead) == (1, 0, 1)
    assert (first.task_blob_bytes, first.result_blob_bytes, first.blob_bytes) == (1500, 300, 1800)
    assert (second.task_blob_bytes, second.result_blob_bytes) == (1500, 0)
    assert (status.blob_chunks, status.blob_bytes) == (3, 1800)


def test_a_task_is_shown_with_every_step(inspector: Inspector, link: LinkSteps) -> None:
    link.both()
    link.assign("t1", "validate")
    link.take("t1")
    link.submit("t1", "EXECUTION_EXCEPTION", link.store(link.keys.result_blob("r1"), 300, 20))
    link.settle("t1", "REJECTED", "cannot be read")

    (view,) = inspector.task("t1")

    assert (view.task.fqcn, view.task.name, view.task.status) == (link.fqcn, "validate", "REJECTED")
    assert view.result_blob_bytes == 320
    assert re.fullmatch(r"REJECTED [0-9.]+ s ago: cannot be read", view.waiting)
    events = view.task.events()
    assert [event.text for event in events] == [
        "assigned by CJ cj-host:100:a (10 B)",
        "fetched by agent agent-host:200:b",
        "result submitted, rc EXECUTION_EXCEPTION (320 B)",
        "settled REJECTED: cannot be read",
    ]
    assert events == sorted(events, key=lambda event: event.time_ms)


def test_a_second_attempt_is_shown(inspector: Inspector, link: LinkSteps) -> None:
    link.both()
    link.assign("t1")
    link.take("t1")
    link.hello("agent", "other-host:300:c")
    link.take("t1")

    assert reason(read(inspector, link)) == "FETCHED for a while, attempt 2 by other-host:300"


def test_a_task_is_found_on_every_link_or_on_the_named_one(inspector: Inspector, server: Server) -> None:
    for fqcn in ("a--x", "b--x"):
        link = LinkSteps(server, fqcn)
        link.both()
        link.assign("t1")
        link.assign("other:t1")

    assert [view.task.fqcn for view in inspector.task("t1")] == ["a--x", "b--x"]
    assert [view.task.fqcn for view in inspector.task("t1", "b--x")] == ["b--x"]
    assert inspector.task("t2") == inspector.task("t1", "c--x") == []


@pytest.mark.parametrize("task_id", ["", "a b", "*", "x" * 201])
def test_a_task_id_that_is_not_legal_is_refused(inspector: Inspector, task_id: str) -> None:
    with pytest.raises(ConfigError, match="task_id must be"):
        inspector.task(task_id)


def test_views_are_converted_to_json(inspector: Inspector, link: LinkSteps) -> None:
    link.both()
    link.assign("t1")

    document = orjson.loads(orjson.dumps(inspector.status().to_json()))
    task = orjson.loads(orjson.dumps(inspector.task("t1")[0].to_json()))

    assert document["namespace"] == "flare"
    assert document["links"][0]["agent"]["connected"] is True
    assert document["links"][0]["task"]["task_id"] == task["task_id"] == "t1"
    assert task["events"][0]["time"].endswith("Z")
    assert task["waiting"].startswith("NEW for ")
