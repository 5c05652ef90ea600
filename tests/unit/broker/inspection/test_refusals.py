"""What Redis refuses to write now, as people see it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
from redflare_broker.embedded.server import EmbeddedServer
from redflare_broker.inspection.federation import Inspector
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
