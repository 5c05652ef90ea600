"""Servers with users and an append-only file, whose user default is off, remember what scripts wrote."""

# mypy: allow-untyped-calls

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from redflare_broker.embedded.server import find_binary
from redflare_broker.transport.server import Server
from redflare_workers.cli.app import app
from typer.testing import CliRunner

from tests.support.link.bench import LinkBench
from tests.support.paths import DOCS
from tests.support.redis_server import kinds
from tests.support.redis_server.node import Node, running

ADMIN = "user admin on >secret ~* &* +@all"
PAGE = (DOCS / "configuration.md").read_text("utf-8")
#: The lines of the documentation.
RECOMMENDED = re.findall(r"^user .*$", PAGE, re.MULTILINE)


@contextmanager
def server_with_users(binary: str | Path, lines: list[str]) -> Iterator[Node]:
    """A server with an ACL file, as the documentation has it, and an administrator."""
    settings = {"dir": "<directory>", "appendonly": "yes", "appendfsync": "always", "aclfile": "<directory>/users.acl"}
    node = Node(binary, settings)
    (node.directory / "users.acl").write_text("\n".join([*lines, ADMIN, ""]))
    node.url = f"redis://admin:secret@127.0.0.1:{node.port}"
    with running(node):
        yield node


def remembers(node: Node, url: str) -> bool:
    """Let scripts write, start the server again, and look whether they find all of it."""
    with Server.connect(url, node.options) as server, server.borrow("any") as connection:
        bench = LinkBench(connection)
        bench.assign("t1")
        bench.take("t1")
    node.restart()
    with node.client() as client:
        kept: list[object] = [client.hget(bench.keys.task("t1"), "status"), client.exists(bench.keys.link)]
    return kept == [b"FETCHED", 1]


def finding(node: Node) -> Any:
    """What doctor says about the replay, as the administrator; None: nothing."""
    shown = CliRunner().invoke(app, ["doctor", "--url", node.url, "--json"])
    return next((found for found in json.loads(shown.stdout)["findings"] if found["topic"] == "replay"), None)


@pytest.mark.parametrize("binary", [kinds.debian_redis, find_binary], ids=["redis 7.0", "valkey"])
def test_the_recommended_users_survive_a_restart(binary: Callable[[], str | Path]) -> None:
    with server_with_users(binary(), RECOMMENDED) as node:
        assert remembers(node, node.url.replace("admin:", "cj:"))
        found = finding(node)
        assert found is None or found["result"] == "ok"


def test_a_server_with_tls_and_users_survives_a_restart() -> None:
    with kinds.tls(durable=True) as node:
        assert remembers(node, node.url)


def test_doctor_reports_what_an_old_server_would_forget() -> None:
    lines = ["user default off", *(line for line in RECOMMENDED if not line.startswith("user default"))]
    with server_with_users(kinds.debian_redis(), lines) as node:
        found = finding(node)
        assert found["result"] == "bad"
        assert "forgets what scripts wrote" in found["text"]
        assert "user default off ~* &* +@all" in found["remedy"]
        with node.client() as admin:
            admin.execute_command(*found["remedy"].partition(",")[0].split())
        assert finding(node)["result"] == "ok"
        # as the remedy says, the same line in the file
        (node.directory / "users.acl").write_text("\n".join([*RECOMMENDED, ADMIN, ""]))
        assert remembers(node, node.url.replace("admin:", "cj:"))


def test_an_old_server_forgets_with_a_plain_default_off() -> None:
    """Why the lines are as they are; the day this fails on the oldest server, they can be shorter."""
    with server_with_users(kinds.debian_redis(), ["user default off"]) as node:
        assert not remembers(node, node.url)
