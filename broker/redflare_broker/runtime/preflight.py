"""Check whether Redis is fit to hold tasks: try every command that is needed; versions are shown, never trusted.

All complaints come in one error, with the commands that fix them. The check writes a few temporary keys beside those
of a link, for which the same permissions hold, and removes them; if it is cut short, they expire.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from redflare_broker.errors import PreflightError, Unavailable
from redflare_broker.keys import Keys, LinkKeys
from redflare_broker.scripts.link_scripts import PREFLIGHT
from redflare_broker.scripts.script import run_pipeline
from redflare_broker.transport.connection import Connection
from redflare_broker.transport.replies import Command, Kind, ReplyError
from redflare_broker.transport.server import Server

#: Milliseconds after which a key of a check that was cut short is gone.
_TTL_MS: Final = 10_000
_POLICY: Final = "maxmemory-policy"

#: By the first word of a refusal: how to fix it.
_FIXES: Final = {
    "NOAUTH": "Give user and password, in the URL or in the options",
    "OOM": "Its memory is full. Fix it with: CONFIG SET maxmemory <bytes>",
    "MISCONF": "Free space on its disk, or accept losses with: CONFIG SET stop-writes-on-bgsave-error no",
}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """Facts about a Redis that is fit; "" where it would not tell."""

    url: str
    #: "valkey 9.1.2", for people: nothing depends on it
    software: str
    #: the value of maxmemory-policy
    eviction: str


def check(
    server: Server,
    allow_eviction: bool = False,
    *,
    keys: LinkKeys | None = None,
    jobs: bool = False,
    wait: bool = False,
) -> ServerFacts:
    """Try Redis; return what is known about it when it is fit.

    Args:
        server: what to check.
        allow_eviction: accept a Redis that may evict keys when its memory is full.
        keys: the link that will be used, when permissions differ between links; None: any.
        jobs: also try what cells and jobs need beyond links.
        wait: the caller waits for what passes by: memory or disk that is full is Unavailable.

    Raises:
        PreflightError: it is not fit; the message says what is wrong and the commands that fix it.
        Unavailable: it cannot be reached now, or with ``wait`` refuses to write for now.
        ServerError: it refuses the login.
    """
    link = keys or Keys().link("preflight")
    with _misplaced(server), server.borrow(link.link) as connection:
        refused = list(_try_all(connection, link, server, jobs))
        if wait and refused and all(reply.rule.kind is Kind.WAIT for _, reply in refused):
            name, reply = refused[0]
            raise reply.error(server.url, name)
        if complaints := _complaints(server.url, connection, link, refused):
            raise _unfit(server.url, complaints)
        software = _info(connection, "server")
    for node in server.primaries():
        eviction = _eviction(node)
        _check_eviction(node.node if server.cluster else server.url, eviction, allow_eviction)
    name = software.get("server_name", "redis")
    version = software.get(f"{name}_version", "")
    return ServerFacts(url=server.url, software=f"{name} {version}" if version else "", eviction=eviction)


def _try_all(connection: Connection, link: LinkKeys, server: Server, jobs: bool) -> Iterator[tuple[str, ReplyError]]:
    """Run every command that the protocol needs; yield the names of those refused, with the replies to them."""
    name = f"preflight-{uuid.uuid4().hex}"
    stream, table, ranking, names = (link.task(f"{name}-{kind}") for kind in ("stream", "hash", "zset", "set"))
    commands = _commands(stream, table, ranking, names if jobs else "")
    key = link.task(name)
    commands += [
        ["PING"],
        ["TIME"],
        ["SET", key, "preflight", "PX", _TTL_MS],
        ["GET", key],
        ["PTTL", key],
        ["DEL", key],
        [server.publish, key, "preflight"],
        [server.subscribe, key],
        [server.subscribe.replace("SUB", "UNSUB"), key],
    ]
    if not server.functions:
        commands.append(["EVAL", "return 1", 1, key])
    if jobs or not server.functions:
        # else the server alone trims the list of agents
        commands.append(["ZREMRANGEBYSCORE", ranking, 2, 3])
    for command, reply in zip(commands, connection.pipeline(commands), strict=True):
        if isinstance(reply, ReplyError):
            yield str(command[0]), reply
    sent = PREFLIGHT.command({}, probe=key, publish=server.publish, ttl_ms=_TTL_MS)
    called = "FCALL" if server.functions else "EVALSHA"
    reply = run_pipeline(connection, [sent])[0]
    if isinstance(reply, ReplyError):
        yield called, reply
    elif reply != [b"OK", b"two"]:
        yield called, ReplyError(f"ERR a script with cjson answered {reply!r} instead of OK, two")


def _commands(stream: str, table: str, ranking: str, names: str) -> list[Command]:
    """Make commands on a key of each type; ``names``: a set, which jobs need; "": it is not needed."""
    for_jobs: list[Command] = [
        ["HGETALL", table],
        ["HKEYS", table],
        ["HINCRBY", table, "v", 1],
        ["ZRANGE", ranking, 0, -1],
        ["ZREM", ranking, "v"],
        ["SADD", names, "v"],
        ["PEXPIRE", names, _TTL_MS],
        ["SCARD", names],
        ["SRANDMEMBER", names, 1],
        ["UNLINK", names],
    ]
    return [
        ["XADD", stream, "1-1", "v", 1],
        ["PEXPIRE", stream, _TTL_MS],
        ["XREAD", "COUNT", 1, "STREAMS", stream, "0"],
        ["XRANGE", stream, "-", "+"],
        ["XLEN", stream],
        ["XDEL", stream, "1-1"],
        ["HSET", table, "v", 1],
        ["PEXPIRE", table, _TTL_MS],
        ["HGET", table, "v"],
        ["HMGET", table, "v", "w"],
        ["HDEL", table, "w"],
        ["ZADD", ranking, 1, "v"],
        ["PEXPIRE", ranking, _TTL_MS],
        *(for_jobs if names else []),
        ["UNLINK", stream, table, ranking],
    ]


def _complaints(
    url: str, connection: Connection, link: LinkKeys, refused: Iterable[tuple[str, ReplyError]]
) -> list[str]:
    """Write one sentence per problem, with its fix; all that one ACL command fixes share a sentence."""
    complaints: list[str] = []
    first_of_kind: dict[str, str] = {}
    missing: dict[str, list[str]] = {}
    for name, reply in refused:
        if reply.code == "NOPERM" or "can't run this command" in str(reply):
            missing.setdefault(_grant(name, reply, link), []).append(name)
        elif "unknown command" in str(reply):
            complaints.append(f"it does not know {name}. Use Redis 7.0 or Valkey 7.2, or newer")
        else:
            fix = _FIXES.get(reply.code, "See its log and documentation")
            first_of_kind.setdefault(reply.code, f"it refuses {name}: {str(reply).rstrip('.')}. {fix}")
    complaints += first_of_kind.values()
    if missing:
        user = connection.pipeline([["ACL", "WHOAMI"]])[0]
        who = user.decode() if isinstance(user, bytes) else urlsplit(url).username or "<user>"
        names = sorted({name for names in missing.values() for name in names})
        command = f"ACL SETUSER {who} {' '.join(missing)}"
        complaints.append(f"user {who} may not use {', '.join(names)}. Fix it with: {command}")
    return complaints


def _grant(name: str, reply: ReplyError, link: LinkKeys) -> str:
    """Return the rule that an ACL user lacks, by the reply of Redis."""
    if "access a key" in str(reply) or "keys" in str(reply):
        return f"~{link.namespace}:*"
    return f"&{link.namespace}:*" if "channel" in str(reply) else f"+{name.lower()}"


def _info(connection: Connection, section: str) -> dict[str, str]:
    reply = connection.pipeline([["INFO", section]])[0]
    if not isinstance(reply, bytes):
        return {}
    return dict(line.split(":", 1) for line in reply.decode(errors="replace").splitlines() if ":" in line)


def _eviction(connection: Connection) -> str:
    """Read the eviction policy, from CONFIG, which is often forbidden, where INFO does not have it."""
    if found := _info(connection, "memory").get("maxmemory_policy"):
        return found
    reply = connection.pipeline([["CONFIG", "GET", _POLICY]])[0]
    if isinstance(reply, list) and len(reply) == 2 and isinstance(reply[1], bytes):
        return reply[1].decode()
    return ""


def _check_eviction(where: str, eviction: str, allowed: bool) -> None:
    if not eviction:
        _log.warning("%s does not report its %s: make sure that it is noeviction, or tasks may be lost", where, _POLICY)
    elif eviction != "noeviction":
        what = f"its {_POLICY} is {eviction}: when its memory is full it evicts tasks"
        if not allowed:
            fix = f"CONFIG SET {_POLICY} noeviction (and the same in its configuration file)"
            raise _unfit(where, [f"{what}. Fix it with: {fix}, or accept the loss with allow_eviction"])
        _log.warning("%s: %s (accepted by allow_eviction)", where, what)


@contextmanager
def _misplaced(server: Server) -> Iterator[None]:
    """Report a replica, or a node of a cluster, that was named by its own URL: it would be "not now" for ever."""
    try:
        yield
    except Unavailable as error:
        words = str(error)
        if ("MOVED" in words or "CLUSTERDOWN" in words) and not server.cluster:
            raise _unfit(server.url, ["it is a node of a cluster. Use redis+cluster:// instead of redis://"]) from error
        if "READONLY" in words and not server.cluster:
            remedy = "Use the URL of its primary, redis+sentinel://, or make it one: REPLICAOF NO ONE"
            raise _unfit(server.url, [f"it is a replica, which cannot be written to. {remedy}"]) from error
        raise


def _unfit(where: str, complaints: list[str]) -> PreflightError:
    return PreflightError(f"{where} is not fit to hold tasks: {'; '.join(complaints)}")
