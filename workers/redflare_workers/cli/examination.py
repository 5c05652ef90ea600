"""What ``redflare doctor`` looks at: each check reads, tries or measures one thing, and says what to change."""

from __future__ import annotations

import contextlib
import logging
import platform
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
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

#: Oldest versions whose commands suffice.
_OLDEST: Final = {"redis": (7, 0), "valkey": (7, 2)}
_PACKAGES: Final = ("redflare", "redis", "hiredis", "orjson", "numpy")
#: Seconds between this clock and that of Redis that people who compare logs do not mind.
_SKEW: Final = 1.0
#: Milliseconds of a round trip beyond which small tasks are felt.
_SLOW: Final = 100.0
#: Part of maxmemory in use beyond which it is time to do something.
_FULL: Final = 0.8
_LOCAL: Final = ("127.0.0.1", "localhost", "::1", "")


class CheckResult(StrEnum):
    """What a check came to."""

    OK = "ok"
    #: works, but think of it
    ADVICE = "advice"
    #: must be changed before jobs run
    BAD = "bad"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The result of one check."""

    #: what was looked at
    topic: str
    verdict: CheckResult
    #: what was found
    text: str
    #: what to do; "": nothing
    remedy: str = ""

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def examine(server: Server, namespace: str, url: str, workspace: Path | None) -> Iterator[Finding]:
    """All findings, in the order in which they are best read.

    Raises:
        Unavailable: the server cannot be reached.
        ServerError: it refuses the login.
    """
    yield _packages()
    if workspace is not None:
        yield _workspace(workspace)
    yield _reached(server, namespace)
    yield _encryption(url)
    several = server.cluster
    for connection in server.primaries():
        where = f" of {connection.node}" if several else ""
        yield from _node(connection, where)
    yield _rights(server, namespace)
    yield _login(server, namespace, url)


def _node(connection: Connection, where: str) -> Iterator[Finding]:
    info = _info(connection)
    yield _version(info, where)
    yield _clock(connection, where)
    yield _persistence(info, _config(connection, "appendfsync"), _config(connection, "save"), where)
    yield _eviction(info, _config(connection, "maxmemory-policy"), where)
    yield _memory(info, where)


def _packages() -> Finding:
    found = []
    for name in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return Finding(
        topic="this side", verdict=CheckResult.OK, text=f"Python {platform.python_version()}, {', '.join(found)}"
    )


def _workspace(folder: Path) -> Finding:
    topic = "workspace"
    if not folder.is_dir():
        remedy = f"Make it (mkdir -p {folder}), or name another with --workspace"
        return Finding(topic=topic, verdict=CheckResult.BAD, text=f"{folder} is no folder", remedy=remedy)
    try:
        settings, site = load_settings(folder), load_site_settings(folder)
    except RedflareError as error:
        return Finding(topic=topic, verdict=CheckResult.BAD, text=str(error), remedy="See docs/configuration.md")
    custom = "may" if site.allow_custom else "may not"
    return Finding(
        topic=topic,
        verdict=CheckResult.OK,
        text=f"{folder}: namespace {settings.namespace}; jobs {custom} bring code of their own; components that may be "
        f"named: {', '.join(site.allow)}",
    )


def _reached(server: Server, namespace: str) -> Finding:
    with server.borrow(Keys(namespace).agents) as connection:
        took = []
        for _ in range(5):
            began = time.perf_counter()
            connection.call("PING")
            took.append((time.perf_counter() - began) * 1000)
    best = min(took)
    text = f"{server.url} answers in {best:.2f} ms"
    if best > _SLOW:
        remedy = "Each step of a task takes a few round trips: bring Redis closer, if small tasks matter"
        return Finding(topic="server", verdict=CheckResult.ADVICE, text=text, remedy=remedy)
    return Finding(topic="server", verdict=CheckResult.OK, text=text)


def _encryption(url: str) -> Finding:
    if urlsplit(url).scheme.startswith("rediss"):
        text = "the connection is encrypted, and the server has proved its name"
        return Finding(topic="TLS", verdict=CheckResult.OK, text=text)
    if not (hosts := _remote_hosts(url)):
        return Finding(topic="TLS", verdict=CheckResult.OK, text="not encrypted, and on this machine only")
    return Finding(
        topic="TLS",
        verdict=CheckResult.ADVICE,
        text=f"models and passwords travel to {', '.join(hosts)} in the clear",
        remedy="Unless the network is your own: give Redis tls-port, tls-cert-file, tls-key-file and tls-ca-cert-file, "
        "put rootCA.pem into startup/ of each workspace, and use rediss://",
    )


def _remote_hosts(url: str) -> list[str]:
    """Machines that a URL names, but for this one; none when it goes through a Unix socket."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return []
    places = parts.netloc.rpartition("@")[2].split(",")
    hosts = [urlsplit(f"//{place}").hostname or "" for place in places]
    return [host for host in hosts if host not in _LOCAL]


def _version(info: dict[str, str], where: str) -> Finding:
    topic = f"version{where}"
    name = info.get("server_name", "redis")
    said = info.get(f"{name}_version", "")
    if not said:
        return Finding(
            topic=topic,
            verdict=CheckResult.ADVICE,
            text="it does not tell its version",
            remedy="Let this user run INFO (ACL SETUSER <user> +info); what is needed is tried below in any case",
        )
    oldest = _OLDEST.get(name)
    numbers = tuple(int(part) for part in said.split(".")[:2] if part.isdigit())
    if oldest and numbers < oldest:
        remedy = f"Use {name} {oldest[0]}.{oldest[1]} or newer"
        return Finding(topic=topic, verdict=CheckResult.BAD, text=f"{name} {said} is too old", remedy=remedy)
    return Finding(topic=topic, verdict=CheckResult.OK, text=f"{name} {said}")


def _clock(connection: Connection, where: str) -> Finding:
    topic = f"clock{where}"
    before = time.time()
    reply = cast("list[bytes]", connection.call("TIME"))
    after = time.time()
    skew = int(reply[0]) + int(reply[1]) / 1e6 - (before + after) / 2
    # half of the round trip is all that can be said
    sure = max(abs(skew) - (after - before) / 2, 0.0)
    side = "ahead of" if skew > 0 else "behind"
    if sure > _SKEW:
        return Finding(
            topic=topic,
            verdict=CheckResult.ADVICE,
            text=f"it is {humanize.age(sure)} {side} this machine's",
            remedy="Nothing depends on it but the times in logs, which are hard to compare: synchronise both (NTP)",
        )
    return Finding(
        topic=topic, verdict=CheckResult.OK, text=f"within {max(sure, 0.001) * 1000:.0f} ms of this machine's"
    )


def _persistence(info: dict[str, str], fsync: str, save: str, where: str) -> Finding:
    topic = f"persistence{where}"
    append_on = "CONFIG SET appendonly yes (and the same in its configuration file)"
    if "aof_enabled" not in info:
        remedy = "Make sure that appendonly is yes, or let this user run INFO"
        return Finding(topic=topic, verdict=CheckResult.ADVICE, text="it does not tell", remedy=remedy)
    if info["aof_enabled"] == "1":
        if info.get("aof_last_write_status", "ok") != "ok":
            return Finding(
                topic=topic,
                verdict=CheckResult.BAD,
                text="its append-only file cannot be written",
                remedy="Free space on its disk",
            )
        how = {"always": "nothing that was answered is lost", "everysec": "a crash loses about a second"}.get(
            fsync, "how much a crash loses is up to the machine" if fsync == "no" else "appendfsync is not told"
        )
        return Finding(topic=topic, verdict=CheckResult.OK, text=f"append-only file: {how}")
    if info.get("rdb_last_bgsave_status", "ok") != "ok":
        text = "its last snapshot failed, and there is no append-only file"
        return Finding(
            topic=topic, verdict=CheckResult.BAD, text=text, remedy=f"Free space on its disk, and {append_on}"
        )
    kept = "only snapshots: a crash loses minutes of jobs" if save else "none: a restart forgets all jobs and tasks"
    return Finding(topic=topic, verdict=CheckResult.ADVICE, text=kept, remedy=append_on)


def _eviction(info: dict[str, str], configured: str, where: str) -> Finding:
    topic = f"eviction{where}"
    policy = configured or info.get("maxmemory_policy", "")
    if policy == "noeviction":
        return Finding(
            topic=topic, verdict=CheckResult.OK, text="noeviction: a full server refuses, and throws nothing away"
        )
    mend = "CONFIG SET maxmemory-policy noeviction (and the same in its configuration file)"
    if not policy:
        return Finding(topic=topic, verdict=CheckResult.ADVICE, text="it does not tell", remedy=f"Make sure: {mend}")
    text = f"maxmemory-policy is {policy}: when its memory is full it throws jobs and tasks away"
    return Finding(topic=topic, verdict=CheckResult.BAD, text=text, remedy=mend)


def _memory(info: dict[str, str], where: str) -> Finding:
    topic = f"memory{where}"
    used, most = (int(info.get(name, "0") or 0) for name in ("used_memory", "maxmemory"))
    said = f"{humanize.size(used)} in use"
    if not most:
        # a machine that runs out of memory kills its largest process
        return Finding(
            topic=topic,
            verdict=CheckResult.ADVICE,
            text=f"{said}, and no limit",
            remedy="CONFIG SET maxmemory <what the machine can spare>: a full server then refuses, and is not killed",
        )
    if used > _FULL * most:
        remedy = "Delete finished jobs (`redflare job list`, `job delete`), or raise it: CONFIG SET maxmemory <bytes>"
        return Finding(topic=topic, verdict=CheckResult.ADVICE, text=f"{said} of {humanize.size(most)}", remedy=remedy)
    return Finding(topic=topic, verdict=CheckResult.OK, text=f"{said} of {humanize.size(most)}")


def _rights(server: Server, namespace: str) -> Finding:
    topic = "rights"
    keys = Keys(namespace).link("preflight")
    quiet = logging.getLogger(preflight.__name__)
    level, quiet.disabled = quiet.disabled, True  # eviction has a finding of its own
    try:
        preflight.check(server, allow_eviction=True, keys=keys, jobs=True)
    except PreflightError as error:
        _, _, complaints = str(error).partition("is not fit to hold tasks: ")
        text, mend, remedy = (complaints or str(error)).rpartition("Fix it with: ")
        if not mend:
            return Finding(topic=topic, verdict=CheckResult.BAD, text=remedy)
        return Finding(topic=topic, verdict=CheckResult.BAD, text=text.rstrip(" ."), remedy=remedy)
    finally:
        quiet.disabled = level
    text = f"every command that links, cells and jobs send was tried on {namespace}:*"
    return Finding(topic=topic, verdict=CheckResult.OK, text=text)


def _login(server: Server, namespace: str, url: str) -> Finding:
    topic = "login"
    with server.borrow(Keys(namespace).agents) as connection:
        name = _text(connection.pipeline([["ACL", "WHOAMI"]])[0])
        user = connection.pipeline([["ACL", "GETUSER", name]])[0] if name else None
    open_to_all = isinstance(user, list) and any(isinstance(flags, list) and b"nopass" in flags for flags in user)
    if not name:
        return Finding(topic=topic, verdict=CheckResult.OK, text="who this is, it does not tell")
    if open_to_all and _remote_hosts(url):
        return Finding(
            topic=topic,
            verdict=CheckResult.ADVICE,
            text=f"user {name} needs no password: whoever reaches the port reads and writes everything",
            remedy=f"ACL SETUSER {name} resetpass '>a long password', then --password-file; docs/configuration.md has "
            "the rules of one user for each site",
        )
    return Finding(topic=topic, verdict=CheckResult.OK, text=f"as user {name}")


def _info(connection: Connection) -> dict[str, str]:
    found: dict[str, str] = {}
    for reply in connection.pipeline([["INFO", section] for section in ("server", "persistence", "memory")]):
        if isinstance(reply, bytes):
            lines = reply.decode(errors="replace").splitlines()
            found |= dict(line.split(":", 1) for line in lines if ":" in line)
    return found


def _config(connection: Connection, name: str) -> str:
    """A setting; "" where this user may not read it."""
    reply = connection.pipeline([["CONFIG", "GET", name]])[0]
    if isinstance(reply, ReplyError) or not isinstance(reply, list) or len(reply) != 2:
        return ""
    return _text(reply[1])


def _text(reply: object) -> str:
    return reply.decode(errors="replace") if isinstance(reply, bytes) else ""
