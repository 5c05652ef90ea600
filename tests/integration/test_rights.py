"""Each party with the rights of its user and no others: whole jobs run, and Redis refuses all that is another's.

The forbidden accesses are written down here, and not made from the table of rights, which they check.
"""

# mypy: allow-untyped-calls

from __future__ import annotations

import json
import shlex
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import redis
from redflare_agent import IPCAgent, TaskResult
from redflare_broker.config.settings import LinkSettings
from redflare_broker.job_store.record import COMPLETED
from redflare_broker.rights import Party
from redflare_broker.scripts import script
from redflare_broker.scripts.script import library
from redflare_broker.transport.server import ConnectionOptions, Server
from redflare_workers.ipc.exchanger import IPCExchanger

from tests.support.federation.parents import Operation, job_of
from tests.support.link.processes import quick_settings
from tests.support.redis_server.cluster import Cluster
from tests.support.redis_server.kinds import KINDS, AnyServer
from tests.support.redis_server.sentinels import SentinelTrio
from tests.support.redis_server.users import PASSWORD, make_user

SERVER: Final = Party(kind="server", name="server")
SITE: Final = Party(kind="site", name="site-1")
AGENT: Final = Party(kind="agent", name="a", site="site-1")
#: Those whose keys the others must not touch; the names of some begin like those of others.
OTHERS: Final = (
    Party(kind="site", name="site-2"),
    Party(kind="site", name="site-12"),
    Party(kind="agent", name="b", site="site-1"),
    Party(kind="agent", name="a", site="site-2"),
)

#: Keys of the server alone, by type; nobody else may write them.
OF_THE_SERVER: Final = {
    "hash": (
        *("{server}:cell", "{server.j}:cell", "{server.j}:job", "{server}:job:j:record", "{server.j}:task:t"),
        *("{server.j}:history", "{server.j}:blobs"),
    ),
    "string": ("{server}:heartbeat", "{server.j}:heartbeat", "{server}:policy", "{server.j}:blob:x:0"),
    "stream": ("{server}:dead", "{server}:job:j:log", "{server.j}:dead"),
    "zset": ("{server}:jobs", "{server}:deleted", "{server.j}:standing", "{server.j}:ended"),
}
#: Keys of another site, and of its agents.
OF_A_SITE: Final = {
    "hash": ("{S}:cell", "{S.j}:cell", "{S--a}:link", "{S--a}:task:t", "{S.j.a}:link"),
    "string": (
        *("{S}:heartbeat", "{S--a}:heartbeat:agent", "{S--a}:blob:task-x:0", "{S.j.a}:blob:result-x:0"),
        *("{server}:heartbeat:S", "{server.j}:heartbeat:S", "{server}:client:S", "{server.j}:client:S"),
    ),
    "stream": (
        *("{S}:inbox:server", "{S}:dead", "{S.j}:inbox:server", "{S--a}:tasks", "{S--a}:results", "{S.j.a}:dead"),
        *("{server}:inbox:S", "{server.j}:inbox:S", "{site-3}:inbox:S", "{site-3.j}:inbox:S"),
    ),
}
#: What an agent of the same site may not touch either.
OF_ITS_SITE: Final = {
    "hash": ("{site-1}:cell", "{site-1.j}:cell", "{site-1--b}:link", "{site-1--b}:task:t", "{site-1.j.b}:link"),
    "string": ("{site-1}:heartbeat", "{site-1--b}:blob:task-x:0", "{site-1.j.b}:blob:result-x:0"),
    "stream": ("{site-1}:inbox:server", "{site-1--b}:tasks", "{site-1--b}:results", "{server}:inbox:site-1"),
}
WRITES: Final = {
    "hash": ("HSET {} f v", "HDEL {} f", "HINCRBY {} f 1"),
    "string": ("SET {} v",),
    "stream": ("XADD {} * f v", "XDEL {} 1-1", "XADD {} MAXLEN 0 * f v"),
    "zset": ("ZADD {} 1 m", "ZREM {} m", "ZREMRANGEBYSCORE {} 0 1"),
}
WRITES_ANY: Final = ("DEL {}", "UNLINK {}", "PEXPIRE {} 1")
READS: Final = {
    "hash": ("HGET {} f", "HMGET {} f g"),
    "string": ("GET {}",),
    "stream": ("XRANGE {} - +", "XREAD STREAMS {} 0", "XLEN {}"),
    "zset": ("ZRANGE {} 0 -1",),
}
#: Sets to which others may add, and no more.
SETS: Final = ("{server}:senders", "{server}:clients", "{server.j}:clients", "{site-2}:senders")
CHANNELS: Final = ("{site-2--a}:abort", "{site-2--a}:notice", "{site-12.j.a}:abort", "{site-2.j.a}:notice", "other")
#: What no party but an administrator may do.
NOBODY: Final = (
    *("FLUSHALL", "FLUSHDB", "KEYS *", "SCAN 0", "RANDOMKEY", "DBSIZE", "MONITOR", "SHUTDOWN NOSAVE", "SAVE", "BGSAVE"),
    *("CONFIG GET *", "CONFIG SET maxmemory 1", "CONFIG REWRITE", "ACL LIST", "ACL SETUSER x on nopass ~* +@all"),
    *("ACL GETUSER default", "ACL DELUSER site-2", "ACL SAVE", "CLIENT LIST", "CLIENT KILL TYPE normal"),
    *("EVAL 'while true do end' 0", "EVALSHA 0 0", "SCRIPT FLUSH", "SCRIPT KILL", "FUNCTION FLUSH", "FUNCTION KILL"),
    *("FUNCTION DELETE x", "FUNCTION LIST", "FUNCTION DUMP", "FUNCTION LOAD x", "REPLICAOF NO ONE", "SWAPDB 0 1"),
    *("SLOWLOG GET", "LATENCY RESET", "MODULE LIST", "SORT k", "OBJECT FREQ k", "WAIT 0 1", "PUBSUB CHANNELS"),
    *("RENAME a b", "COPY a b", "MIGRATE h 1 k 0 1", "RESTORE k 0 v", "MOVE k 1", "DUMP k", "APPEND k v"),
    *("SETRANGE k 0 v", "XTRIM k MAXLEN 0", "XGROUP CREATE k g 0", "PERSIST k", "GETDEL k", "SPOP k"),
)


@pytest.fixture(scope="module", params=["embedded", "redis70", "redis82", "cluster", "sentinel"])
def secured(request: pytest.FixtureRequest) -> Iterator[AnyServer]:
    """A server with a user for each party, and with the functions."""
    with KINDS[request.param]() as server:
        ways = {"cluster": isinstance(server, Cluster), "sentinel": isinstance(server, SentinelTrio)}
        for node in server.nodes_of_all():
            with node.client() as admin:
                for party in (SERVER, SITE, AGENT, *OTHERS):
                    make_user(admin, party, **ways)
        yield server


def may_read(party: Party, key: str) -> bool:
    """What a party reads of others: where they are, and payloads whose names it was told."""
    if party.kind == "agent":
        return key.startswith("{server.") and ":blob:" in key
    return key.endswith((":cell", ":heartbeat", ":job")) or (":blob:" in key and "--" not in key)


def forbidden(party: Party) -> Iterator[str]:
    """Commands that this party may not run."""
    groups: list[dict[str, tuple[str, ...]]] = [OF_THE_SERVER]
    for site in ("site-2", "site-12"):
        groups.append({kind: tuple(key.replace("S", site) for key in keys) for kind, keys in OF_A_SITE.items()})
    if party.kind == "agent":
        groups.append(OF_ITS_SITE)
    for group in groups:
        for kind, keys in group.items():
            for key in keys:
                yield from (write.format(f"flare:{key}") for write in (*WRITES[kind], *WRITES_ANY))
                if not may_read(party, key):
                    yield from (read.format(f"flare:{key}") for read in READS[kind])
    yield from (f"PUBLISH flare:{channel} x" for channel in CHANNELS)
    yield from (f"SUBSCRIBE flare:{channel}" for channel in CHANNELS)
    for name in SETS:
        yield from (f"{verb} flare:{name}" for verb in ("SMEMBERS", "DEL", "UNLINK"))
        yield f"PEXPIRE flare:{name} 1"
    yield from ("DEL flare:agents", "ZREM flare:agents x", "PEXPIRE flare:agents 1", "ZRANGE flare:agents 0 -1")
    # a step is refused the keys of others, whoever has loaded it
    for key in ("{site-2--a}", "{site-12--a}", "{server.j}"):
        yield f"FCALL {library().name}_link_take 2 flare:{key}:link flare:{key}:task:t i 1 t"
    yield from NOBODY


def refused(connection: redis.Redis, command: str) -> bool:
    try:
        connection.execute_command(*shlex.split(command))
    except redis.exceptions.NoPermissionError:
        return True
    except redis.exceptions.ResponseError:
        return False
    return False


@pytest.mark.parametrize("party", [SITE, AGENT], ids=lambda party: party.kind)
def test_redis_refuses_a_party_all_that_is_anothers(secured: AnyServer, party: Party) -> None:
    commands = list(forbidden(party))
    assert len(commands) > 500
    port = secured.nodes_of_all()[0].port
    with redis.Redis(port=port, username=party.user, password=PASSWORD) as connection:
        assert [command for command in commands if not refused(connection, command)] == []


class Secured(Operation):
    """A federation whose server and sites have users of their own."""

    def workspace(self, site: str = "site-1", **settings: Any) -> Path:
        path = super().workspace(site, **settings)
        file = path / "comm_config.json"
        user = {"username": site, "password_file": "password", "functions": True}
        file.write_text(json.dumps(json.loads(file.read_text()) | user))
        password = path / "password"
        password.write_text(PASSWORD)
        password.chmod(0o600)
        return path


def refusals(server: AnyServer) -> list[tuple[str, str, str]]:
    """What Redis has refused since the last time."""
    found = []
    for node in server.nodes_of_all():
        with node.client() as admin:
            found += [(entry["username"], entry["reason"], entry["object"]) for entry in admin.acl_log()]
            admin.acl_log_reset()
    return found


def test_a_whole_job_runs_with_the_rights_of_each_party(secured: AnyServer, tmp_path: Path) -> None:
    refusals(secured)
    operation = Secured(secured.url, tmp_path, "flare", secured.client())  # type: ignore[arg-type]
    try:
        operation.server()
        operation.process("site-1")
        operation.process("site-2")
        operation.submit(job_of(min_clients=2))
        operation.wait_for(COMPLETED)
        assert refusals(secured) == []
    finally:
        operation.close()


@pytest.mark.parametrize("job_id", [None, "j"], ids=["of the site", "of a job"])
def test_a_site_and_its_agent_exchange_tasks_with_their_rights(secured: AnyServer, job_id: str | None) -> None:
    load_functions(secured)
    refusals(secured)
    settings = quick_settings("flare")
    as_site, as_agent = (
        replace(settings, connection=ConnectionOptions(username=party.user, password=PASSWORD, functions=True))
        for party in (SITE, AGENT)
    )
    with IPCExchanger(
        redis_url=secured.url, site_name="site-1", agent_id="a", job_id=job_id, settings=as_site
    ) as exchanger:
        agent = threading.Thread(target=serve_two, args=(secured.url, as_agent, job_id))
        agent.start()
        # one that fits into an entry, and one in chunks
        for size in (10, 100_000):
            answer = exchanger.run("train", {"w": np.arange(size)})
            assert answer.data["w"].tolist() == list(range(0, 2 * size, 2))
        agent.join(30)
    assert refusals(secured) == []


def load_functions(server: AnyServer) -> None:
    """As the federation's server does at its start."""
    options = ConnectionOptions(username=SERVER.user, password=PASSWORD, functions=True)
    with Server.connect(server.url, options) as connected:
        for primary in connected.primaries():
            script.load_functions(primary)


def serve_two(url: str, settings: LinkSettings, job_id: str | None) -> None:
    with IPCAgent(url, "site-1", "a", ".", job_id=job_id, settings=settings) as agent:
        for _ in range(2):
            task = agent.get_task()
            assert task is not None
            agent.submit_result(TaskResult({}, {"w": task.data["w"] * 2}))
