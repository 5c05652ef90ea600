"""Looking into jobs: reads what stands in Redis for each, payloads excepted, and changes nothing.

A job is read on its server's shard in a few round trips; its parts are of about the same moment.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, cast

import orjson

from redflare_broker.errors import RedflareError
from redflare_broker.job_state.members import Member, read_member
from redflare_broker.job_state.task_record import STANDING, read_task
from redflare_broker.keys import CellKeys, JobKeys, Keys
from redflare_broker.transport.connection import Connection
from redflare_broker.transport.server import Server
from redflare_broker.wire.task_entry import check_task_id

from . import job_presence
from .explain_wait import why_job_waits, why_not_done
from .job_presence import JobPresence
from .job_view import ClientTaskView, JobTask, JobView, SiteView
from .redis_read import fqcns, now_of, pipeline, stored, text_hash

#: Tasks that have ended and are shown.
MOST_ENDED: Final = 10
#: Entries of an inbox that are read in one go, and at most.
_PAGE: Final = 500
_MOST_ENTRIES: Final = 20_000
_JOB_FIELDS: Final = (*("status", "reason", "run", "previous", "began", "begun", "started", "ended", "checkpoint"),)
#: Begin the names of fields that hold payloads; their lengths are read and not they.
_PAYLOADS: Final = (b"data", b"result:")
_BRIEF: Final = ("status", "ended", "kind")


class JobInspector:
    """Read-only views of the jobs of one namespace; every method raises Unavailable at once when Redis is away."""

    def __init__(self, server: Server, keys: Keys) -> None:
        self._server = server
        self._keys = keys

    def names(self, names: Iterable[str] | None = None) -> list[str]:
        """FQCNs of all jobs; those that sites have joined and no server has begun yet are among them.

        Args:
            names: keys to look among, instead of a scan.
        """
        found = list(self._server.scan(f"{self._keys.namespace}:{{*}}:[cj]*") if names is None else names)
        return sorted({name for suffix in ("job", "clients") for name in fqcns(self._keys.namespace, found, suffix)})

    def all(self, names: Iterable[str] | None = None) -> list[JobView]:
        """Every job, without its ended tasks."""
        return [job for fqcn in self.names(names) if (job := self._read(fqcn, with_ended=False))]

    def find(self, job: str) -> list[JobView]:
        """A job by the FQCN of its server's cell, or by its id: then the jobs of all servers that have that id.

        Raises:
            ConfigError: it is no legal FQCN.
        """
        fqcn = self._keys.job(job).fqcn
        matching = [name for name in self.names() if name == fqcn or name.rpartition(".")[2] == fqcn]
        return [story for name in matching if (story := self._read(name, with_ended=True))]

    def with_task(self, root_id: str) -> list[str]:
        """FQCNs of the jobs that have, or had, a task of this root id."""
        suffix = f"task:{check_task_id(root_id)}"
        found = fqcns(self._keys.namespace, self._server.scan(f"{self._keys.namespace}:{{*}}:{suffix}"), suffix)
        return [fqcn for fqcn in found if self._is_task(fqcn, root_id)]

    def _is_task(self, fqcn: str, root_id: str) -> bool:
        key = self._keys.job(fqcn).task(root_id)
        with self._server.borrow(key) as connection:
            return bool(pipeline(connection, [("HEXISTS", key, "kind")])[0])

    def _read(self, fqcn: str, *, with_ended: bool) -> JobView | None:
        keys = self._keys.job(fqcn)
        ledgers = list(self._server.scan(f"{keys.task('')}*")) if with_ended else []
        with self._server.borrow(keys.job) as connection:
            raw = _Raw.read(connection, keys)
            if not raw.job["status"] and not raw.entries:
                return None
            tasks = self._tasks(connection, keys, raw.standing, raw.now)
            ended = self._tasks(connection, keys, _last_ended(connection, keys, ledgers), raw.now)
            asked = _asked(connection, self._keys.cell(fqcn))
        tasks = [self._with_stored(task) for task in tasks if task.stands]
        ended = sorted((task for task in ended if not task.stands), key=lambda task: (-task.ended, -task.order))
        job = raw.story(keys.fqcn, _sites(raw.entries, raw.now, [*tasks, *ended], asked), tasks, ended)
        # what a task waits for may be another one
        told = replace(job, tasks=tuple(replace(task, waiting=why_not_done(task, job)) for task in tasks))
        return replace(told, waiting=why_job_waits(told))

    def _with_stored(self, task: JobTask) -> JobTask:
        return replace(task, stored=stored(self._server, task.blob)) if task.blob else task

    @staticmethod
    def _tasks(connection: Connection, keys: JobKeys, roots: Sequence[str], now: int) -> list[JobTask]:
        """The ledgers of some tasks; those that are gone meanwhile are left out."""
        names = pipeline(connection, [("HKEYS", keys.task(root)) for root in roots])
        found = []
        for root, fields in zip(roots, names, strict=True):
            task = _task(connection, keys.task(root), root, cast("list[bytes]", fields), now)
            if task is not None:
                found.append(task)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Raw:
    """What stands in Redis for a job, its tasks excepted."""

    now: int
    job: Mapping[str, str]
    server: JobPresence
    entries: Sequence[Member]
    standing: Sequence[str]
    inbox: int
    payloads: int

    @classmethod
    def read(cls, connection: Connection, keys: JobKeys) -> _Raw:
        time, job, cell, beat, pttl, clients, standing, inbox, payloads = pipeline(
            connection,
            [
                ("TIME",),
                ("HMGET", keys.job, *_JOB_FIELDS),
                ("HGETALL", keys.cell),
                ("GET", keys.server_heartbeat),
                ("PTTL", keys.server_heartbeat),
                ("HGETALL", keys.clients),
                ("ZRANGE", keys.standing, 0, -1),
                ("XLEN", CellKeys(namespace=keys.namespace, fqcn=keys.fqcn).inbox),
                ("HLEN", keys.blobs),
            ],
        )
        now = now_of(time)
        values = cast("list[bytes | None]", job)
        records = cast("list[bytes]", clients)
        beats = pipeline(
            connection, [("PTTL", keys.heartbeat(name.decode("utf-8", "replace"))) for name in records[::2]]
        )
        entries = [read_member(*each) for each in zip(records[::2], records[1::2], beats, strict=True)]
        return cls(
            now=now,
            job={
                name: (value or b"").decode("utf-8", "replace") for name, value in zip(_JOB_FIELDS, values, strict=True)
            },
            server=job_presence.of_server(text_hash(cell), cast("bytes | None", beat), cast("int", pttl), now),
            entries=sorted(entries, key=lambda entry: entry.name),
            standing=[root.decode("utf-8", "replace") for root in cast("list[bytes]", standing)],
            inbox=cast("int", inbox),
            payloads=cast("int", payloads),
        )

    def story(
        self, fqcn: str, sites: Sequence[SiteView], tasks: Sequence[JobTask], ended: Sequence[JobTask]
    ) -> JobView:
        job = self.job
        return JobView(
            fqcn=fqcn,
            status=job["status"],
            reason=job["reason"],
            run=job["run"],
            previous=job["previous"],
            began=job["began"],
            begun=_number(job["begun"]),
            started=_number(job["started"]),
            ended=_number(job["ended"]),
            checkpoint=_number(job["checkpoint"]),
            server=self.server,
            sites=tuple(sites),
            tasks=tuple(tasks),
            ended_tasks=tuple(ended),
            inbox=self.inbox,
            payloads=self.payloads,
            now=self.now,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """A request of a site that stands in the server's inbox."""

    site: str
    instance: str
    topic: str
    task_id: str
    #: when it was posted, in ms of Redis's clock
    since: int


def _asked(connection: Connection, keys: CellKeys) -> list[_Asked]:
    """The requests in the server's inbox, the oldest first; what is none is left to the server's judgement."""
    found, start, count = list[_Asked](), "-", 0
    while count < _MOST_ENTRIES:
        [reply] = pipeline(connection, [("XRANGE", keys.inbox, start, "+", "COUNT", _PAGE)])
        page = cast("list[tuple[bytes, list[bytes]]]", reply)
        found += [asked for entry, fields in page if (asked := _request(entry, fields))]
        if len(page) < _PAGE:
            break
        start, count = f"({page[-1][0].decode()}", count + len(page)
    return found


def _request(entry: bytes, flat: Sequence[bytes]) -> _Asked | None:
    fields = dict(zip(flat[::2], flat[1::2], strict=False))
    try:
        if fields[b"kind"] != b"request":
            return None
        meta = orjson.loads(fields[b"meta"])
        return _Asked(
            site=str(meta["client"]),
            instance=str(meta["instance"]),
            topic=fields[b"topic"].decode(),
            task_id=str(meta.get("task_id", "")),
            since=int(entry.partition(b"-")[0]),
        )
    except (KeyError, ValueError, TypeError, AttributeError):
        return None


def _sites(entries: Sequence[Member], now: int, tasks: Sequence[JobTask], asked: Sequence[_Asked]) -> list[SiteView]:
    has: dict[str, list[tuple[str, str, ClientTaskView]]] = {}
    answered: dict[str, int] = {}
    for task in tasks:
        for share in task.client_tasks:
            if share.received:
                answered[share.site] = answered.get(share.site, 0) + 1
            elif task.stands:
                has.setdefault(share.site, []).append((task.root_id, task.name, share))
    inbox: dict[tuple[str, str], list[_Asked]] = {}
    for each in asked:
        inbox.setdefault((each.site, each.instance), []).append(each)
    made = []
    for entry in entries:
        mine = inbox.get((entry.name, entry.instance), [])
        asks = [each.since for each in mine if each.topic == "get_task"]
        made.append(
            SiteView(
                name=entry.name,
                cell=entry.cell,
                attendance=job_presence.of_site(entry, now),
                props=entry.props,
                # of several only the last is answered with a task
                asks_since=asks[-1] if asks else 0,
                brings={each.task_id: each.since for each in reversed(mine) if each.topic == "submit"},
                has=tuple(has.get(entry.name, ())),
                answered=answered.get(entry.name, 0),
            )
        )
    return made


def _last_ended(connection: Connection, keys: JobKeys, ledgers: Iterable[str]) -> list[str]:
    """Root ids of the tasks that ended last, by the keys of all ledgers."""
    names = sorted(set(ledgers))
    replies = cast("list[list[bytes | None]]", pipeline(connection, [("HMGET", name, *_BRIEF) for name in names]))
    ended = []
    for name, (status, at, kind) in zip(names, replies, strict=True):
        if status and kind and status != STANDING.encode() and at and at.isdigit():
            ended.append((int(at), name.removeprefix(keys.task(""))))
    return [root for _, root in sorted(ended, reverse=True)[:MOST_ENDED]]


def _task(connection: Connection, key: str, root: str, names: Sequence[bytes], now: int) -> JobTask | None:
    """One ledger, without what its payloads hold; None: it is gone."""
    plain = [name for name in names if not name.startswith(_PAYLOADS)]
    data = [name for name in names if name.startswith(b"data") and name != b"data:blobs"]
    if not plain:
        return None
    values, ref, *lengths = pipeline(
        connection, [("HMGET", key, *plain), ("HGET", key, "data:blobs"), *(("HSTRLEN", key, name) for name in data)]
    )
    pairs = zip(plain, cast("list[bytes | None]", values), strict=True)
    ledger = {name: value for name, value in pairs if value is not None}
    if not ledger:
        return None
    prefix, nbytes = _blob(cast("bytes | None", ref))
    size = sum(cast("list[int]", lengths)) + nbytes
    return replace(JobTask.read(read_task(key, root, ledger), now), size=size, blob=prefix, blob_bytes=nbytes)


def _blob(ref: bytes | None) -> tuple[str, int]:
    """Prefix and bytes of the chunks that a ledger names; ("", 0) for none."""
    try:
        told = orjson.loads(ref or b"{}")
        return str(told.get("prefix", "")), sum(map(int, told.get("sizes", ())))
    except (ValueError, TypeError, AttributeError) as error:
        raise RedflareError(f"data:blobs of a task is {ref!r:.200}: {error!r}") from None


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0
