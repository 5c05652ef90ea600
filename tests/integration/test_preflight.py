"""The preflight, on servers that pass, fail, and do not reply."""

# mypy: allow-untyped-calls

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from importlib import resources

import fakeredis
import pytest
import redis
from redflare_broker.embedded.server import EmbeddedServer
from redflare_broker.errors import PreflightError, ServerError, Unavailable
from redflare_broker.keys import Keys
from redflare_broker.runtime.preflight import check
from redflare_broker.transport.server import Server

from tests.support.redis_server.node import AGENT_ACL, CJ_ACL, free_port

RIGHTS = ["~flare:*", "&flare:*", "+@all"]


@pytest.fixture(scope="module")
def running() -> Iterator[EmbeddedServer]:
    with EmbeddedServer(extra={"enable-debug-command": "local"}) as server:
        yield server


@pytest.fixture
def admin(running: EmbeddedServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(running.url) as client:
        yield client
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "0")


@pytest.fixture
def server(running: EmbeddedServer) -> Iterator[Server]:
    with Server.connect(running.url) as made:
        yield made


def _complaint_of(admin: redis.Redis, url: str, *rules: str) -> str:
    """Run the check as a user with these rules."""
    admin.execute_command("ACL", "SETUSER", "bob", "reset", "on", ">pw", *rules)
    with Server.connect(url.replace("//", "//bob:pw@")) as server, pytest.raises(PreflightError) as caught:
        check(server)
    return str(caught.value)


def _refused(server: Server, pattern: str) -> str:
    """Run the check, whose error must match."""
    with pytest.raises(PreflightError, match=pattern) as caught:
        check(server)
    return str(caught.value)


def test_the_preflight_describes_a_server(server: Server, running: EmbeddedServer) -> None:
    facts = check(server)
    assert facts.url == running.url
    assert facts.software.startswith("valkey ")
    assert facts.eviction == "noeviction"


def commands_tried(admin: redis.Redis, server: Server, *, jobs: bool) -> set[str]:
    """The names of the commands that the check sends."""
    admin.config_resetstat()
    check(server, jobs=jobs)
    return {name.removeprefix("cmdstat_").upper() for name in admin.info("commandstats")}


@pytest.mark.parametrize("jobs", [False, True])
def test_every_command_of_the_scripts_is_tried(admin: redis.Redis, server: Server, jobs: bool) -> None:
    lua = resources.files("redflare_broker.scripts") / "lua"
    folders = [lua, lua / "link", *([lua / "cell", lua / "job", lua / "store"] if jobs else [])]
    files = [file for folder in folders for file in folder.iterdir() if file.name.endswith(".lua")]
    used = set(re.findall(r"redis\.p?call\('(\w+)'", "".join(file.read_text("utf-8") for file in files)))
    assert "XADD" in used
    assert used <= commands_tried(admin, server, jobs=jobs)


@pytest.mark.parametrize(("rules", "jobs"), [(AGENT_ACL, False), (CJ_ACL, True)])
def test_the_recommended_rights_are_those_that_are_tried(
    admin: redis.Redis, server: Server, rules: str, jobs: bool
) -> None:
    granted = {rule[1:].upper() for rule in rules.split() if rule.startswith("+")}
    sharded = {"SPUBLISH", "SSUBSCRIBE", "SUNSUBSCRIBE"}
    only_asked = {"CONFIG|GET", "CONFIG|RESETSTAT"}
    assert granted - sharded == commands_tried(admin, server, jobs=jobs) - only_asked


def test_the_check_leaves_no_key(server: Server, admin: redis.Redis) -> None:
    check(server)
    assert admin.dbsize() == 0


def test_the_check_does_not_touch_the_link_it_is_given(server: Server, admin: redis.Redis) -> None:
    keys = Keys().link("site-1--trainer")
    with admin.pubsub() as listener:
        listener.subscribe(keys.abort, keys.notice)
        check(server, keys=keys)
        messages = [listener.get_message(timeout=0.05) for _ in range(3)]
    assert [message["type"] for message in messages if message] == ["subscribe", "subscribe"]
    assert admin.dbsize() == 0


def test_missing_commands_are_named_with_their_remedy(running: EmbeddedServer, admin: redis.Redis) -> None:
    complaint = _complaint_of(admin, running.url, *RIGHTS, "-xadd", "-evalsha", "-subscribe")
    assert "user bob may not use EVALSHA, SUBSCRIBE, XADD." in complaint
    assert complaint.endswith("Fix it with: ACL SETUSER bob +xadd +subscribe +evalsha")
    assert "bob:***@" in complaint


def test_the_named_command_repairs_it(running: EmbeddedServer, admin: redis.Redis) -> None:
    complaint = _complaint_of(admin, running.url, "+@connection")
    for _ in range(3):  # commands first, then what they may touch
        admin.execute_command(*complaint.rpartition("Fix it with: ")[2].split())
        with Server.connect(running.url.replace("//", "//bob:pw@")) as server:
            try:
                check(server)
                return
            except PreflightError as error:
                complaint = str(error)
    pytest.fail(f"not mended by following the advice: {complaint}")


def test_missing_keys_are_named_with_the_rule_that_grants_them(running: EmbeddedServer, admin: redis.Redis) -> None:
    assert _complaint_of(admin, running.url, "~other:*", "&flare:*", "+@all").endswith("ACL SETUSER bob ~flare:*")


def test_missing_channels_are_named_with_the_rule_that_grants_them(running: EmbeddedServer, admin: redis.Redis) -> None:
    assert _complaint_of(admin, running.url, "~flare:*", "resetchannels", "+@all").endswith("SETUSER bob &flare:*")


def test_a_command_that_the_server_does_not_have_asks_for_a_newer_one() -> None:
    with EmbeddedServer(extra={"rename-command": "XREAD elsewhere"}) as running, Server.connect(running.url) as server:
        _refused(server, r"does not know XREAD\. Use Redis 7\.0 or Valkey 7\.2, or newer")


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_a_server_that_evicts_is_refused_with_the_command_that_repairs_it(
    server: Server, admin: redis.Redis, policy: str
) -> None:
    admin.config_set("maxmemory-policy", policy)
    with pytest.raises(PreflightError, match=f"maxmemory-policy is {policy}.*CONFIG SET maxmemory-policy noeviction"):
        check(server)


def test_a_server_that_evicts_can_be_accepted(
    server: Server, admin: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    admin.config_set("maxmemory-policy", "allkeys-lru")
    assert check(server, allow_eviction=True).eviction == "allkeys-lru"
    assert "accepted by allow_eviction" in caplog.text


def test_without_config_the_policy_is_read_from_info(running: EmbeddedServer, admin: redis.Redis) -> None:
    admin.config_set("maxmemory-policy", "allkeys-lfu")
    assert "maxmemory-policy is allkeys-lfu" in _complaint_of(admin, running.url, *RIGHTS, "-config")


def test_an_unknown_eviction_policy_is_a_warning(
    running: EmbeddedServer, admin: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    admin.execute_command("ACL", "SETUSER", "bob", "reset", "on", ">pw", *RIGHTS, "-config", "-info")
    with Server.connect(running.url.replace("//", "//bob:pw@")) as server:
        facts = check(server)
    assert (facts.software, facts.eviction) == ("", "")
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "does not report its maxmemory-policy" in caplog.text


def test_a_full_server_is_refused(server: Server, admin: redis.Redis) -> None:
    admin.config_set("maxmemory", "1")
    complaint = _refused(server, "Its memory is full. Fix it with: CONFIG SET maxmemory <bytes>")
    assert complaint.count("OOM") == 1


def test_a_full_server_is_unavailable_to_those_who_wait(server: Server, admin: redis.Redis) -> None:
    admin.config_set("maxmemory", "1")
    with pytest.raises(Unavailable, match="Raise maxmemory") as caught:
        check(server, wait=True)
    assert caught.value.cause == "OOM"
    admin.config_set("maxmemory", "0")
    assert check(server, wait=True).eviction == "noeviction"


def test_those_who_wait_are_told_what_is_wrong_besides(
    server: Server, running: EmbeddedServer, admin: redis.Redis
) -> None:
    admin.config_set("maxmemory", "1")
    admin.execute_command("ACL", "SETUSER", "bob", "reset", "on", ">pw", *RIGHTS, "-xread")
    url = running.url.replace("//", "//bob:pw@")
    with Server.connect(url) as limited, pytest.raises(PreflightError, match="xread"):
        check(limited, wait=True)


def test_a_missing_login_is_reported_once() -> None:
    with EmbeddedServer(extra={"requirepass": "geheim"}) as running, Server.connect(running.url) as server:
        assert _refused(server, "Give user and password").count("NOAUTH") == 1


def test_a_wrong_login_is_refused(running: EmbeddedServer) -> None:
    url = running.url.replace("//", "//bob:wrong@")
    with Server.connect(url) as server, pytest.raises(ServerError, match="refuses the login"):
        check(server)


def test_a_replica_is_refused() -> None:
    with EmbeddedServer(extra={"replicaof": "127.0.0.1 1"}) as running, Server.connect(running.url) as server:
        _refused(server, "is a replica, which cannot be written to")


def test_a_node_of_a_cluster_is_refused_as_a_single_server() -> None:
    with (
        EmbeddedServer(port=free_port(), extra={"cluster-enabled": "yes"}) as running,
        Server.connect(running.url) as server,
    ):
        _refused(server, r"it is a node of a cluster\. Use redis\+cluster://")


def test_a_server_that_is_away_is_unavailable() -> None:
    with Server.connect("redis://127.0.0.1:1") as server, pytest.raises(Unavailable):
        check(server)


def test_a_fake_server_passes(caplog: pytest.LogCaptureFixture) -> None:
    client = fakeredis.FakeRedis()
    with Server.connect(client=client) as server:
        assert check(server).eviction == ""
    assert client.dbsize() == 0
    client.close()
