"""``redflare doctor``: its findings at a Redis that is ready for jobs, and at some that are not."""

# mypy: allow-untyped-calls

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redflare_broker.embedded.server import EmbeddedServer
from redflare_workers.cli.app import app
from typer.testing import CliRunner, Result


@pytest.fixture(scope="module")
def running() -> Iterator[EmbeddedServer]:
    with EmbeddedServer() as server:
        yield server


@pytest.fixture
def admin(running: EmbeddedServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(running.url) as client:
        yield client
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "0")
        client.config_set("appendonly", "no")


def doctor(url: str, *more: str) -> Result:
    return CliRunner(env={"COLUMNS": "100", "NO_COLOR": "1"}).invoke(app, ["doctor", "--url", url, *more])


def findings(url: str, *more: str) -> dict[str, dict[str, str]]:
    document: Any = json.loads(doctor(url, "--json", *more).stdout)
    return {finding["topic"]: finding for finding in document["findings"]}


def test_a_well_configured_redis_is_ready(running: EmbeddedServer, admin: redis.Redis) -> None:
    admin.config_set("appendonly", "yes")
    admin.config_set("maxmemory", "1gb")

    shown = doctor(running.url)

    assert shown.exit_code == 0
    assert "valkey 9" in shown.stdout
    assert {finding["result"] for finding in findings(running.url).values()} == {"ok"}
    assert list(admin.scan_iter("*")) == []


def test_a_redis_that_evicts_is_not_ready_and_the_finding_has_the_fix(
    running: EmbeddedServer, admin: redis.Redis
) -> None:
    admin.config_set("maxmemory-policy", "allkeys-lru")

    shown = doctor(running.url)

    assert shown.exit_code == 1
    assert findings(running.url)["eviction"]["remedy"].startswith("CONFIG SET maxmemory-policy noeviction")


def test_missing_persistence_is_advice(running: EmbeddedServer, admin: redis.Redis) -> None:
    finding = findings(running.url)["persistence"]

    assert (finding["result"], finding["remedy"][:25]) == ("advice", "CONFIG SET appendonly yes")


def test_a_missing_right_is_reported_with_the_acl_rule(running: EmbeddedServer, admin: redis.Redis) -> None:
    admin.execute_command("ACL", "SETUSER", "bob", "reset", "on", ">pw", "~flare:*", "&flare:*", "+@all", "-xadd")
    url = running.url.replace("//", "//bob:pw@")

    finding = findings(url)["rights"]

    assert finding["result"] == "bad"
    assert "ACL SETUSER bob +xadd" in finding["remedy"]
    assert "bob" in findings(url)["login"]["text"]
    assert doctor(url).exit_code == 1


def test_what_a_user_may_not_read_is_unknown_and_not_guessed(running: EmbeddedServer, admin: redis.Redis) -> None:
    rules = ["reset", "on", ">pw", "~flare:*", "&flare:*", "+@all", "-info", "-config", "-acl"]
    admin.execute_command("ACL", "SETUSER", "bob", *rules)

    found = findings(running.url.replace("//", "//bob:pw@"))

    for topic in ("version", "persistence", "eviction", "memory"):
        assert (found[topic]["result"], found[topic]["text"]) == ("advice", "unknown: this user may not read it")
    assert found["login"]["text"] == "user unknown (ACL WHOAMI denied)"


def test_a_wrong_password_and_an_unavailable_redis_are_exit_code_3(running: EmbeddedServer) -> None:
    assert doctor(running.url.replace("//", "//bob:wrong@")).exit_code == 3
    assert doctor("redis://127.0.0.1:1").exit_code == 3


def test_a_workspace_is_checked(running: EmbeddedServer, tmp_path: Path) -> None:
    assert findings(running.url, "--workspace", str(tmp_path))["workspace"]["result"] == "ok"
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "site.json").write_text('{"alow": []}')

    finding = findings(running.url, "--workspace", str(tmp_path))["workspace"]

    assert finding["result"] == "bad"
    assert "alow" in finding["text"]
    assert findings(running.url, "--workspace", str(tmp_path / "no"))["workspace"]["result"] == "bad"
