"""What Redis refuses to write now, as people see it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import fakeredis
import pytest
import redis
from redflare_broker.embedded.server import EmbeddedServer
from redflare_broker.inspection.federation import Inspector
from redflare_broker.inspection.refusals import describe_room
from redflare_broker.keys import room_note
from redflare_broker.payload.room import TTL_MS, RoomWait
from redflare_broker.transport.server import Server
from redflare_workers.cli.app import app
from redflare_workers.cli.exit_codes import UNAVAILABLE
from typer.testing import CliRunner

from tests.support.link.steps import LinkSteps


@pytest.fixture(scope="module")
def embedded() -> Iterator[EmbeddedServer]:
    with EmbeddedServer() as running:
        yield running


@pytest.fixture
def server(embedded: EmbeddedServer) -> Iterator[Server]:
    with Server.connect(embedded.url) as made:
        yield made
        for name in ("maxmemory", "min-replicas-to-write"):
            call(made, "CONFIG", "SET", name, 0)


def call(server: Server, *command: str | int) -> object:
    with server.borrow("any") as connection:
        return connection.call(*command)


def test_nothing_is_refused_by_a_server_that_is_well(server: Server) -> None:
    assert Inspector(server).status().refusals == ()


@pytest.mark.parametrize(
    ("setting", "word", "remedy"),
    [("maxmemory", "OOM", "Raise maxmemory"), ("min-replicas-to-write", "NOREPLICAS", "fewer replicas")],
)
@pytest.mark.parametrize("used", [True, False])
def test_a_refusal_is_told_with_what_to_do(server: Server, setting: str, word: str, remedy: str, used: bool) -> None:
    call(server, "FLUSHALL")
    if used:
        LinkSteps(server).both()
    keys = call(server, "DBSIZE")
    call(server, "CONFIG", "SET", setting, 1)
    [refusal] = Inspector(server).status().refusals
    assert f": {word} " in refusal
    assert remedy in refusal
    assert call(server, "DBSIZE") == keys


def test_who_may_not_write_learns_nothing(server: Server, embedded: EmbeddedServer) -> None:
    call(server, "ACL", "SETUSER", "reader", "reset", "on", ">pw", "~*", "-@all", "+@read", "+time")
    call(server, "CONFIG", "SET", "maxmemory", 1)
    with Server.connect(embedded.url.replace("//", "//reader:pw@")) as limited:
        assert Inspector(limited).status().refusals == ()


def test_status_shows_it_before_all_else(server: Server, embedded: EmbeddedServer) -> None:
    call(server, "CONFIG", "SET", "maxmemory", 1)
    shown = CliRunner(env={"COLUMNS": "300", "NO_COLOR": "1"}).invoke(app, ["status", "--url", embedded.url])
    first = shown.stdout.splitlines()[0]
    assert "OOM command not allowed" in first
    assert first.rstrip().endswith("Everything waits for it.")


def test_a_command_that_is_not_let_in_says_why() -> None:
    # by TCP: a Unix socket is closed under the first command, before the reason can be read
    with EmbeddedServer(port=0) as embedded, redis.Redis.from_url(embedded.url) as client:
        client.config_set("maxclients", 1)
        shown = CliRunner().invoke(app, ["status", "--url", embedded.url])
    assert shown.exit_code == UNAVAILABLE
    assert "max number of clients reached. Raise maxclients" in shown.stderr
    assert "Is Redis up?" not in shown.stderr


# -- payloads that do not fit ------------------------------------------------------------------------------------------


def wait_for_room(prefix: str, **more: Any) -> RoomWait:
    given = {"host": "gpu-1", "pid": 7, "nbytes": 20_000_000, "seconds": 30.0, "used": 240_000_000, "most": 250_000_000}
    return RoomWait(prefix=prefix, **{**given, **more})


def test_a_payload_that_does_not_fit_is_described_with_figures() -> None:
    assert describe_room([]) == ""
    assert describe_room([wait_for_room("flare:{site-1.j}:blob:a")]) == (
        "Redis has no room for a payload of 20.0 MB: 240 MB of at most 250 MB are in use. Waiting: site-1.j (20.0 MB, "
        "for 30 s). Raise maxmemory (CONFIG SET maxmemory), or free space in Redis."
    )
    unknown = [wait_for_room(f"flare:{{site-{number}}}:blob:b", used=0, most=0) for number in range(7)]
    assert describe_room(unknown).startswith(
        "Redis has no room for 7 payloads, 140 MB together. Waiting: site-0 (20.0 MB, for 30 s), "
    )
    assert "and 2 more. Raise maxmemory" in describe_room(unknown)


def test_notes_of_those_that_wait_are_found_and_their_age_counts() -> None:
    with Server.connect(client=fakeredis.FakeRedis()) as server, server.borrow("any") as connection:
        for prefix, seconds in (("flare:{site-1.j}:blob:a", 10.0), ("flare:{server}:blob:b", 50.0)):
            note = wait_for_room(prefix, seconds=seconds).to_note()
            connection.call("SET", room_note(prefix), note, "PX", TTL_MS - 3_000)
        connection.call("SET", "flare:{site-1.j}:blob:c:waits", b"no JSON")
        connection.call("HSET", "flare:{site-1--a}:task:waits", "status", "NEW")

        waits = Inspector(server).status().no_room

    assert [wait.fqcn for wait in waits] == ["server", "site-1.j"]
    assert [wait.seconds for wait in waits] == [pytest.approx(53, abs=1), pytest.approx(13, abs=1)]
