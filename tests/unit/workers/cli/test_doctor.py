"""``redflare doctor``: its findings at a Redis that is ready for jobs, and at some that are not."""

# mypy: allow-untyped-calls

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redflare_broker.embedded.server import EmbeddedServer
from redflare_workers.cli.app import app
from typer.testing import CliRunner, Result

from tests.support.redis_server.kinds import tls


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


def test_it_connects_as_the_workspace_says_but_for_what_an_option_says(
    running: EmbeddedServer, admin: redis.Redis, tmp_path: Path
) -> None:
    rules = ["reset", "on", ">geheim", "~berlin:*", "&berlin:*", "+@all"]
    admin.execute_command("ACL", "SETUSER", "carol", *rules)
    (tmp_path / "redis.password").write_text("geheim")
    (tmp_path / "redis.password").chmod(0o600)
    config = {"namespace": "berlin", "username": "carol", "password_file": "redis.password"}
    (tmp_path / "comm_config.json").write_text(json.dumps(config))

    found = findings(running.url, "--workspace", str(tmp_path))

    assert found["login"]["text"] == "user carol"
    assert found["rights"]["result"] == "ok"
    assert "berlin:*" in found["rights"]["text"]
    others = findings(running.url, "--workspace", str(tmp_path), "--namespace", "flare")
    assert others["rights"]["result"] == "bad"
    admin.execute_command("ACL", "SETUSER", "dave", *rules)
    assert findings(running.url, "--workspace", str(tmp_path), "--user", "dave")["login"]["text"] == "user dave"


def test_it_uses_the_certificates_of_the_workspace(tmp_path: Path) -> None:
    startup = tmp_path / "startup"
    startup.mkdir()
    with tls() as node:
        shutil.copy(node.directory / "ca-cert.pem", startup / "rootCA.pem")
        for name in ("client.crt", "client.key"):
            shutil.copy(node.directory / "client.pem", startup / name)
            (startup / name).chmod(0o600)
        (tmp_path / "password").write_text("cj-secret")
        (tmp_path / "password").chmod(0o600)
        (tmp_path / "comm_config.json").write_text('{"username": "cj", "password_file": "password"}')

        assert doctor(node.url).exit_code == 2
        found = findings(node.url, "--workspace", str(tmp_path))

    assert found["TLS"]["text"].startswith("encrypted")
    assert found["rights"]["result"] == "ok"


def test_settings_that_cannot_be_read_are_an_error(running: EmbeddedServer, tmp_path: Path) -> None:
    (tmp_path / "comm_config.json").write_text('{"namespce": "berlin"}')
    result = doctor(running.url, "--workspace", str(tmp_path))
    assert result.exit_code == 2
    assert "unknown keys ['namespce']" in result.stderr


@pytest.mark.parametrize(
    "command", [["doctor"], ["server"], ["site", "site-1"], ["agent", "run", "t:train", "-s", "s"]]
)
def test_a_workspace_that_is_not_there_is_an_error_that_names_what_is(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "site-1").mkdir()
    for wrong, says in (("site-q", f"did you mean {tmp_path / 'site-1'}?"), ("Berlin", f"{tmp_path} has site-1.")):
        result = CliRunner().invoke(app, [*command, "--workspace", str(tmp_path / wrong)])
        assert result.exit_code == 2
        assert f"there is no folder {tmp_path / wrong} for --workspace; {says}" in result.stderr
    (tmp_path / "file").touch()
    assert "is no folder" in CliRunner().invoke(app, [*command, "--workspace", str(tmp_path / "file")]).stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "site-1"]
