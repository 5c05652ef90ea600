"""The checks of ``redflare doctor``: each reads, tries or measures one thing, and says how to fix it."""

from __future__ import annotations

import contextlib
import logging
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, cast
from urllib.parse import urlsplit

from redflare_broker.config.settings import load_settings
from redflare_broker.errors import PreflightError, RedflareError
from redflare_broker.keys import Keys
from redflare_broker.runtime import preflight
from redflare_broker.transport.connection import Connection
from redflare_broker.transport.replies import ReplyError
from redflare_broker.transport.server import Server
from redflare_broker.util import humanize

from redflare_workers.workspace.site_settings import load_site_settings

#: Oldest versions that have every command needed.
_OLDEST: Final = {"redis": (7, 0), "valkey": (7, 2)}
#: Versions from which on a replay of the append-only file asks nobody's rights.
_REPLAYS_ALL: Final = {"redis": (8, 6), "valkey": (9, 1)}
_PACKAGES: Final = ("redflare", "redis", "hiredis", "orjson", "numpy")
#: Seconds that this clock and Redis's may differ before logs are hard to compare.
_SKEW: Final = 1.0
#: Milliseconds of a round trip beyond which small tasks become slow.
_SLOW: Final = 100.0
#: Part of maxmemory beyond which memory is nearly full.
_FULL: Final = 0.8
_LOCAL: Final = ("127.0.0.1", "localhost", "::1", "")
_UNKNOWN: Final = "unknown: this user may not read it"


class CheckResult(StrEnum):
    """The result of a check."""

    OK = "ok"
    #: works, but should be reviewed
    ADVICE = "advice"
    #: must be changed before jobs run
    BAD = "bad"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one check found."""

    #: what was checked
    topic: str
    result: CheckResult
    text: str
    #: how to fix it; "" if nothing needs fixing
    remedy: str = ""


def run_checks(server: Server, namespace: str, url: str, workspace: Path | None) -> Iterator[Finding]:
    """Run all checks, from the general to the particular.

    Raises:
        Unavailable: Redis cannot be reached.
        ServerError: it refuses the login.
    """
    yield _packages()
    if workspace is not None:
        yield _workspace(workspace)
    yield _round_trip(server, namespace)
    yield _encryption(url)
    several = server.cluster
    for connection in server.primaries():
        where = f" of {connection.node}" if several else ""
        yield from _node(connection, namespace, where)
    yield _rights(server, namespace)
    yield _login(server, namespace, url)


def _node(connection: Connection, namespace: str, where: str) -> Iterator[Finding]:
    info = _info(connection)
    yield _version(info, f"version{where}")
    yield _clock(connection, f"clock{where}")
    yield _persistence(
        info, _config(connection, "appendfsync"), _config(connection, "save"), topic=f"persistence{where}"
    )
    yield from _replay(info, _user(connection, "default"), namespace, f"replay{where}")
    yield _eviction(info, _config(connection, "maxmemory-policy"), f"eviction{where}")
    yield _memory(info, f"memory{where}")


def _ok(topic: str, text: str) -> Finding:
    return Finding(topic=topic, result=CheckResult.OK, text=text)


def _advice(topic: str, text: str, remedy: str) -> Finding:
    return Finding(topic=topic, result=CheckResult.ADVICE, text=text, remedy=remedy)


def _bad(topic: str, text: str, remedy: str = "") -> Finding:
    return Finding(topic=topic, result=CheckResult.BAD, text=text, remedy=remedy)


def _packages() -> Finding:
    found = []
    for name in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return _ok("this host", f"Python {platform.python_version()}, {', '.join(found)}")


def _workspace(folder: Path) -> Finding:
    topic = "workspace"
    try:
        settings, site = load_settings(folder), load_site_settings(folder)
    except RedflareError as error:
        return _bad(topic, str(error), "See docs/configuration.md")
    custom = "allowed" if site.allow_custom else "not allowed"
    text = f"{folder}: namespace {settings.namespace}; custom code {custom}; components: {', '.join(site.allow)}"
    return _ok(topic, text)


def _round_trip(server: Server, namespace: str) -> Finding:
    with server.borrow(Keys(namespace).agents) as connection:
        took = []
        for _ in range(5):
            began = time.perf_counter()
            connection.call("PING")
            took.append((time.perf_counter() - began) * 1000)
    best = min(took)
    text = f"{server.url} answers in {best:.2f} ms"
    if best > _SLOW:
        remedy = "Each step of a task takes a few round trips: move Redis closer if small tasks matter"
        return _advice("connection", text, remedy)
    return _ok("connection", text)


def _encryption(url: str) -> Finding:
    if urlsplit(url).scheme.startswith("rediss"):
        return _ok("TLS", "encrypted, and the certificate of Redis is verified")
    if not (hosts := _remote_hosts(url)):
        return _ok("TLS", "not encrypted, but only on this host")
    return _advice(
        "TLS",
        f"models and passwords travel unencrypted to {', '.join(hosts)}",
        "Unless you trust the network: give Redis tls-port, tls-cert-file, tls-key-file and tls-ca-cert-file, "
        "put rootCA.pem into startup/ of each workspace, and use rediss://",
    )


def _remote_hosts(url: str) -> list[str]:
    """Return the hosts in a URL other than this one; none for a Unix socket."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return []
    places = parts.netloc.rpartition("@")[2].split(",")
    hosts = [urlsplit(f"//{place}").hostname or "" for place in places]
    return [host for host in hosts if host not in _LOCAL]


def _version(info: dict[str, str], topic: str) -> Finding:
    name, number = _software(info)
    if not number:
        remedy = "Allow this user INFO (ACL SETUSER <user> +info); the commands needed are tried below in any case"
        return _advice(topic, _UNKNOWN, remedy)
    oldest = _OLDEST.get(name)
    if oldest and _release(number) < oldest:
        return _bad(topic, f"{name} {number} is too old", f"Use {name} {oldest[0]}.{oldest[1]} or newer")
    return _ok(topic, f"{name} {number}")


def _software(info: dict[str, str]) -> tuple[str, str]:
    """Return name and version of the server; "" for a version that this user may not read."""
    name = info.get("server_name", "redis")
    return name, info.get(f"{name}_version", "")


def _release(number: str) -> tuple[int, ...]:
    return tuple(int(part) for part in number.split(".")[:2] if part.isdigit())


def _clock(connection: Connection, topic: str) -> Finding:
    before = time.time()
    reply = cast("list[bytes]", connection.call("TIME"))
    after = time.time()
    skew = int(reply[0]) + int(reply[1]) / 1e6 - (before + after) / 2
    # the reply may be half a round trip old
    certain = max(abs(skew) - (after - before) / 2, 0.0)
    if certain > _SKEW:
        text = f"{humanize.age(certain)} {'ahead of' if skew > 0 else 'behind'} this host's"
        return _advice(topic, text, "Only the times in logs depend on it: synchronise both clocks (NTP)")
    return _ok(topic, f"within {max(certain, 0.001) * 1000:.0f} ms of this host's")


def _persistence(info: dict[str, str], fsync: str, save: str, *, topic: str) -> Finding:
    enable = "CONFIG SET appendonly yes (and the same in redis.conf)"
    if "aof_enabled" not in info:
        return _advice(topic, _UNKNOWN, "Make sure that appendonly is yes, or allow this user INFO")
    if info["aof_enabled"] == "1":
        if info.get("aof_last_write_status", "ok") != "ok":
            return _bad(topic, "the append-only file cannot be written", "Free space on its disk")
        loss = {
            "always": "a crash loses nothing that was acknowledged",
            "everysec": "a crash loses about a second",
            "no": "how much a crash loses depends on the operating system",
        }
        return _ok(topic, f"append-only file: {loss.get(fsync, 'appendfsync is unknown')}")
    if info.get("rdb_last_bgsave_status", "ok") != "ok":
        text = "the last snapshot failed, and there is no append-only file"
        return _bad(topic, text, f"Free space on its disk, and {enable}")
    text = "only snapshots: a crash loses minutes of jobs" if save else "none: a restart loses all jobs and tasks"
    return _advice(topic, text, enable)


def _replay(info: dict[str, str], default: dict[str, str] | None, namespace: str, topic: str) -> Iterator[Finding]:
    """Check what a restart forgets: it replays scripts and transactions of the append-only file as the user default.

    Args:
        default: the rules of that user; None: this user may not read them.
    """
    name, number = _software(info)
    fixed = _REPLAYS_ALL.get(name)
    if info.get("aof_enabled") == "0" or (fixed and number and _release(number) >= fixed):
        return
    what = f"{name} {number}" if number else "Redis before 8.6"
    forgets = f"a restart of {what} forgets what scripts wrote, unless user default has all rights, even if it is off"
    remedy = "ACL SETUSER default off ~* &* +@all, and in its ACL file: user default off ~* &* +@all"
    if default is None:
        if number:
            yield _advice(topic, f"{forgets}; {_UNKNOWN}", f"Where users are in use, make sure: {remedy}")
    elif not default["commands"].startswith("+@all") or not {"~*", f"~{namespace}:*"} & set(default["keys"].split()):
        yield _bad(topic, forgets, remedy)
    else:
        yield _ok(topic, "user default has the rights to replay what scripts wrote")


def _eviction(info: dict[str, str], configured: str, topic: str) -> Finding:
    policy = configured or info.get("maxmemory_policy", "")
    if policy == "noeviction":
        return _ok(topic, "noeviction: a full Redis refuses writes and deletes nothing")
    remedy = "CONFIG SET maxmemory-policy noeviction (and the same in redis.conf)"
    if not policy:
        return _advice(topic, _UNKNOWN, f"Make sure: {remedy}")
    return _bad(topic, f"maxmemory-policy is {policy}: when memory is full, jobs and tasks are deleted", remedy)


def _memory(info: dict[str, str], topic: str) -> Finding:
    if "used_memory" not in info:
        return _advice(topic, _UNKNOWN, "Make sure that maxmemory is set, or allow this user INFO")
    used, most = (int(info.get(name, "0") or 0) for name in ("used_memory", "maxmemory"))
    text = f"{humanize.size(used)} in use"
    if not most:
        # a host that runs out of memory kills its largest process
        remedy = "CONFIG SET maxmemory <bytes>: a full Redis then refuses writes instead of being killed"
        return _advice(topic, f"{text}, no limit", remedy)
    text = f"{text} of {humanize.size(most)}"
    if used > _FULL * most:
        remedy = "Delete finished jobs (`redflare job list`, `job delete`), or raise it: CONFIG SET maxmemory <bytes>"
        return _advice(topic, text, remedy)
    return _ok(topic, text)


def _rights(server: Server, namespace: str) -> Finding:
    topic = "rights"
    keys = Keys(namespace).link("preflight")
    logger = logging.getLogger(preflight.__name__)
    disabled, logger.disabled = logger.disabled, True  # eviction has its own finding
    try:
        preflight.check(server, allow_eviction=True, keys=keys, jobs=True)
    except PreflightError as error:
        _, _, complaints = str(error).partition("is not fit to hold tasks: ")
        text, marker, remedy = (complaints or str(error)).rpartition("Fix it with: ")
        return _bad(topic, text.rstrip(" ."), remedy) if marker else _bad(topic, remedy)
    finally:
        logger.disabled = disabled
    return _ok(topic, f"every command that links, cells and jobs send was tried on {namespace}:*")


def _login(server: Server, namespace: str, url: str) -> Finding:
    topic = "login"
    with server.borrow(Keys(namespace).agents) as connection:
        name = _text(connection.pipeline([["ACL", "WHOAMI"]])[0])
        user = connection.pipeline([["ACL", "GETUSER", name]])[0] if name else None
    open_to_all = isinstance(user, list) and any(isinstance(flags, list) and b"nopass" in flags for flags in user)
    if not name:
        return _ok(topic, "user unknown (ACL WHOAMI denied)")
    if open_to_all and _remote_hosts(url):
        return _advice(
            topic,
            f"user {name} needs no password: anyone who can reach the port can read and write everything",
            f"ACL SETUSER {name} resetpass '>a long password', then --password-file; docs/configuration.md has "
            "the rules for one user per site",
        )
    return _ok(topic, f"user {name}")


def _info(connection: Connection) -> dict[str, str]:
    found: dict[str, str] = {}
    for reply in connection.pipeline([["INFO", section] for section in ("server", "persistence", "memory")]):
        if isinstance(reply, bytes):
            lines = reply.decode(errors="replace").splitlines()
            found |= dict(line.split(":", 1) for line in lines if ":" in line)
    return found


def _user(connection: Connection, name: str) -> dict[str, str] | None:
    """Read the rules of a user, each as a text; None if this user may not."""
    reply = connection.pipeline([["ACL", "GETUSER", name]])[0]
    if not isinstance(reply, list):
        return None
    return {_text(key): _text(value) for key, value in zip(reply[::2], reply[1::2], strict=False)}


def _config(connection: Connection, name: str) -> str:
    """Read a setting; "" if this user may not read it."""
    reply = connection.pipeline([["CONFIG", "GET", name]])[0]
    if isinstance(reply, ReplyError) or not isinstance(reply, list) or len(reply) != 2:
        return ""
    return _text(reply[1])


def _text(reply: object) -> str:
    return reply.decode(errors="replace") if isinstance(reply, bytes) else ""
