"""Steps as functions of Redis: who loads them, who may only call them, and what a full memory refuses."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
from redflare_broker.embedded.server import EmbeddedServer
from redflare_broker.errors import ServerError, Unavailable
from redflare_broker.keys import Keys
from redflare_broker.runtime.preflight import check
from redflare_broker.scripts.lease import Lease
from redflare_broker.scripts.link_scripts import ASSIGN, SETTLE
from redflare_broker.scripts.script import Library, library
from redflare_broker.transport.server import ConnectionOptions, Server

from tests.support.link.bench import LinkBench

FUNCTIONS = ConnectionOptions(functions=True)
#: What the steps of a link need; no script, and no right to load functions.
RIGHTS = [
    "+@stream",
    "+@hash",
    "+@string",
    "+@keyspace",
    "+@sortedset",
    "+@pubsub",
    "+@connection",
    "+time",
    "+fcall",
    "-function|load",
]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with EmbeddedServer() as server:
        yield server.url


@pytest.fixture
def admin(url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(url) as client:
        client.flushall()
        client.function_flush()
        yield client
        client.config_set("maxmemory", 0)


def user(admin: redis.Redis, url: str, name: str, *rules: str) -> ConnectionOptions:
    admin.execute_command("ACL", "SETUSER", name, "reset", "on", ">secret", "&*", *RIGHTS, *rules)  # type: ignore[no-untyped-call]
    return ConnectionOptions(username=name, password="secret", functions=True)


def names(admin: redis.Redis) -> list[bytes]:
    return [found[1] for found in admin.function_list()]


def test_who_may_loads_the_functions_with_the_first_step_and_again_when_redis_has_lost_them(
    url: str, admin: redis.Redis
) -> None:
    with Server.connect(url, FUNCTIONS) as server, server.borrow("any") as connection:
        bench = LinkBench(connection)
        assert names(admin) == [library().name.encode()]
        admin.function_flush()
        assert bench.assign("t1").status == "NEW"
    assert admin.info("commandstats").get("cmdstat_evalsha") is None


def test_who_may_not_load_functions_waits_for_who_may(url: str, admin: redis.Redis) -> None:
    options = user(admin, url, "caller", "~*")
    with Server.connect(url, options) as server, server.borrow("any") as connection:
        with pytest.raises(Unavailable, match="has not the functions of this release of redflare: its server loads"):
            LinkBench(connection)
        with Server.connect(url, FUNCTIONS) as loader, loader.borrow("any") as other:
            LinkBench(other, namespace="another")
        assert LinkBench(connection).assign("t1").status == "NEW"


def test_a_user_runs_a_task_without_a_right_to_scripts_and_the_keys_of_others_are_refused(
    url: str, admin: redis.Redis
) -> None:
    with Server.connect(url, FUNCTIONS) as loader, loader.borrow("any") as connection:
        LinkBench(connection, namespace="another")
    options = user(admin, url, "trainer", "~flare:{site-1--trainer}:*")
    with Server.connect(url, options) as server, server.borrow("any") as connection:
        bench = LinkBench(connection)
        bench.submitted("t1")
        assert bench.settle("t1").status == "ACCEPTED"
        with pytest.raises(ServerError, match="script link/hello failed in Redis"):
            LinkBench(connection, namespace="another")
        with pytest.raises(ServerError, match="NOPERM"):
            connection.call("EVAL", "while true do end", 0)


def test_the_check_of_redis_needs_no_right_to_scripts(url: str, admin: redis.Redis) -> None:
    with Server.connect(url, FUNCTIONS) as loader:
        check(loader)
    options = user(admin, url, "trainer", "~flare:{site-1--trainer}:*")
    with Server.connect(url, options) as server:
        check(server, keys=Keys().link("site-1--trainer"), allow_eviction=True)


def test_a_full_redis_refuses_what_adds_and_lets_through_what_frees(url: str, admin: redis.Redis) -> None:
    with Server.connect(url, FUNCTIONS) as server, server.borrow("any") as connection:
        bench = LinkBench(connection)
        bench.submitted("t1")
        admin.config_set("maxmemory", 1)
        assert bench.settle("t1").status == "ACCEPTED"
        assert bench.beat(bench.agent).status == "OK"
        with pytest.raises(Unavailable, match="OOM"):
            bench.assign("t2")
        admin.config_set("maxmemory", 0)
        assert bench.assign("t2").status == "NEW"
        assert bench.bye(Lease(name="agent", instance=bench.agent.instance, epoch=bench.agent.epoch)).status == "OK"


def test_two_releases_stand_side_by_side(url: str, admin: redis.Redis) -> None:
    other = Library.of([ASSIGN, SETTLE])
    assert other.name != library().name
    admin.function_load(other.source)
    with Server.connect(url, FUNCTIONS) as server, server.borrow("any") as connection:
        assert LinkBench(connection).assign("t1").status == "NEW"
    assert sorted(names(admin)) == sorted([other.name.encode(), library().name.encode()])
