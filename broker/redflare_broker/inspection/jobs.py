"""``JobInspector``: reads jobs from Redis, without their payloads.

A job is read from its server's shard in a few round trips, so its parts are of about the same moment.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final, cast

import orjson

from redflare_broker.errors import DecodeError, RedflareError
from redflare_broker.job_state.awaited_sites import AwaitedSites
from redflare_broker.job_state.members import Member, read_member
from redflare_broker.job_state.task_record import STANDING, read_task
from redflare_broker.keys import CellKeys, JobKeys, Keys, room_note
from redflare_broker.payload.payload_store import payloads_of
from redflare_broker.payload.room import RoomWait
from redflare_broker.transport.connection import Connection
from redflare_broker.transport.server import Server
from redflare_broker.wire.task_entry import check_id

from .explain_wait import why_job_waits, why_not_done
from .job_view import ClientTaskView, JobTaskView, JobView, SiteView, job_name
from .link_read import tasks_at_agents
from .presence import server_of_job, site_of_job
from .redis_read import BATCH, fields_of, fqcns, now_of, pipeline, text_hash
from .refusals import waits_for_room

#: Ended tasks that are shown.
MOST_ENDED: Final = 10
#: Entries of an inbox that are read in one round trip, and of all of them at most.
_PAGE: Final = 500
_MOST_ENTRIES: Final = 20_000
_JOB_FIELDS: Final = "status", "reason", "run", "previous", "began", "begun", "started", "ended", "checkpoint"
#: Prefixes of the fields that hold payloads; only the lengths of these are read.
_PAYLOADS: Final = (b"data", b"result:")
_ENDING: Final = ("status", "ended", "kind")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Others:
    """What is read once for all jobs: the FQCNs of the links, and who waits for room."""

    links: Sequence[str]
    waits: Sequence[RoomWait]


class JobInspector:
    """Read-only views of the jobs of one namespace; every method raises Unavailable at once if Redis is away."""

    def __init__(self, server: Server, keys: Keys) -> None:
        self._server = server
        self._keys = keys

    def all(self, names: Iterable[str] | None = None) -> list[JobView]:
        """Every job, without its ended tasks.

        Args:
            names: keys to search instead of scanning Redis.
        """
        found = self._scan() if names is None else list(names)
        others = self._others_in(found)
        return [job for fqcn in self._jobs_in(found) if (job := self._read(fqcn, others, with_ended=False))]

    def find(self, job: str) -> list[JobView]:
        """Find a job by the FQCN of its server's cell, or all jobs of an id, each of another server.

        Raises:
            ConfigError: it is not a legal FQCN.
        """
        fqcn = self._keys.job(job).fqcn
        found = self._scan()
        others = self._others_in(found)
        matching = [name for name in self._jobs_in(found) if name == fqcn or name.rpartition(".")[2] == fqcn]
        return [view for name in matching if (view := self._read(name, others, with_ended=True))]

    def with_task(self, root_id: str) -> list[str]:
        """Find the jobs that have, or had, a task of this root id; return the names by which commands know them."""
        suffix = f"task:{check_id(root_id)}"
        found = fqcns(self._keys.namespace, self._server.scan(f"{self._keys.namespace}:{{*}}:{suffix}"), suffix)
        return [job_name(fqcn) for fqcn in found if self._is_task(fqcn, root_id)]

    def _is_task(self, fqcn: str, root_id: str) -> bool:
        key = self._keys.job(fqcn).task(root_id)
        with self._server.borrow(key) as connection:
            return bool(pipeline(connection, [("HEXISTS", key, "kind")])[0])

    def _scan(self) -> list[str]:
        """Find the keys by which jobs and links are known, and the notes of who waits for room."""
        patterns = (f"{self._keys.namespace}:{{*}}:[cjl]*", room_note(f"{self._keys.namespace}:*"))
        return [name for pattern in patterns for name in self._server.scan(pattern)]

    def _jobs_in(self, found: Sequence[str]) -> list[str]:
        """FQCNs of all jobs, including those that sites have joined and no server has started yet."""
        return sorted({name for suffix in ("job", "clients") for name in fqcns(self._keys.namespace, found, suffix)})

    def _others_in(self, found: Sequence[str]) -> _Others:
        namespace = self._keys.namespace
        return _Others(links=fqcns(namespace, found, "link"), waits=waits_for_room(self._server, namespace, found))

    def _read(self, fqcn: str, others: _Others, *, with_ended: bool) -> JobView | None:
        keys = self._keys.job(fqcn)
        ledgers = list(self._server.scan(f"{keys.task('')}*")) if with_ended else []
        with self._server.borrow(keys.job) as connection:
            job, members, open_tasks = _read_job(connection, keys)
            if not job.status and not members:
                return None
            tasks = _read_tasks(connection, keys, open_tasks, job.now)
            ended = _read_tasks(connection, keys, _last_ended(connection, keys, ledgers), job.now)
            requests = _requests(connection, self._keys.cell(fqcn))
        tasks = [self._with_stored(task) for task in tasks if task.is_open]
        ended = [task for task in ended if not task.is_open]
        ended.sort(key=lambda task: (-task.ended, -task.record.order))
        sites = self._with_agents(_sites(members, job.now, [*tasks, *ended], requests), others)
        at_server = [wait for wait in others.waits if (wait.host, wait.pid) == (job.server.host, job.server.pid)]
        job = replace(job, no_room=next((wait for wait in at_server if wait.fqcn == fqcn), None))
        job = replace(job, sites=tuple(sites), tasks=tuple(tasks), ended_tasks=tuple(ended))
        # a task may be waiting for a site that works on another one
        explained = replace(job, tasks=tuple(replace(task, waiting=why_not_done(task, job)) for task in tasks))
        return replace(explained, waiting=why_job_waits(explained))

    def _with_agents(self, sites: Sequence[SiteView], others: _Others) -> list[SiteView]:
        """Add how the tasks of the sites stand at their agents, and whose results do not fit into Redis."""
        wanted = {site.name: {share.record.id for _, _, share in site.working_on} for site in sites}
        if not any(wanted.values()):
            return list(sites)
        found = tasks_at_agents(self._server, self._keys, others.links, wanted)
        waiting = {wait.fqcn: wait for wait in others.waits}
        detailed = []
        for site in sites:
            at_agent = {task_id: found[task_id] for task_id in wanted[site.name] & found.keys()}
            writers = [site.cell, *(each.fqcn for each in at_agent.values())]
            no_room = next((waiting[name] for name in writers if name in waiting), None)
            detailed.append(replace(site, at_agent=at_agent, no_room=no_room))
        return detailed

    def _with_stored(self, task: JobTaskView) -> JobTaskView:
        return replace(task, stored=payloads_of(self._server).stored(task.blob)) if task.blob else task


def _read_job(connection: Connection, keys: JobKeys) -> tuple[JobView, list[Member], list[str]]:
    """Read a job without its sites and tasks, and beside it its members and the root ids of its open tasks."""
    inboxes = _inboxes(connection, CellKeys(namespace=keys.namespace, fqcn=keys.fqcn))
    time, job, cell, beat, pttl, clients, open_tasks, payloads, *lengths = pipeline(
        connection,
        [
            ("TIME",),
            ("HMGET", keys.job, *_JOB_FIELDS, "awaited"),
            ("HGETALL", keys.cell),
            ("GET", keys.server_heartbeat),
            ("PTTL", keys.server_heartbeat),
            ("SMEMBERS", keys.clients),
            ("ZRANGE", keys.standing, 0, -1),
            ("HLEN", keys.blobs),
            *(("XLEN", inbox) for inbox in inboxes),
        ],
    )
    now = now_of(time)
    texts = [(value or b"").decode("utf-8", "replace") for value in cast("list[bytes | None]", job)]
    members = _read_members(connection, keys, cast("list[bytes]", clients))
    view = JobView(
        fqcn=keys.fqcn,
        **fields_of(JobView, dict(zip(_JOB_FIELDS, texts, strict=False))),
        awaited=AwaitedSites.parse(texts[-1]),
        server=server_of_job(text_hash(cell), cast("bytes | None", beat), cast("int", pttl), now),
        inbox=sum(cast("list[int]", lengths)),
        payloads=cast("int", payloads),
        now=now,
    )
    roots = [root.decode("utf-8", "replace") for root in cast("list[bytes]", open_tasks)]
    return view, sorted(members, key=lambda member: member.name), roots


def _read_members(connection: Connection, keys: JobKeys, names: Sequence[bytes]) -> list[Member]:
    """Read the records of clients; leave out those that are gone, or are none of ours."""
    texts = [name.decode("utf-8", "replace") for name in names]
    records = connection.pipeline([("GET", keys.client(name)) for name in texts])
    beats = pipeline(connection, [("PTTL", keys.heartbeat(name)) for name in texts])
    members = []
    for name, record, beat in zip(names, records, beats, strict=True):
        with suppress(DecodeError):
            members.append(read_member(name, record, beat))
    return members


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """A site's request in its inbox at the server."""

    site: str
    instance: str
    topic: str
    task_id: str
    #: when it was posted, in ms of Redis's clock
    since: int


def _inboxes(connection: Connection, keys: CellKeys) -> list[str]:
    """Return the keys of the inboxes that a cell has, one for each sender."""
    senders = cast("list[bytes]", pipeline(connection, [("SMEMBERS", keys.senders)])[0])
    return sorted(keys.inbox(sender.decode("utf-8", "replace")) for sender in senders)


def _requests(connection: Connection, keys: CellKeys) -> list[_Request]:
    """Read the requests in the server's inboxes, the oldest of each sender first; skip other entries."""
    found, count = list[_Request](), 0
    starts = dict.fromkeys(_inboxes(connection, keys), "-")
    while starts and count < _MOST_ENTRIES:
        ranges = [("XRANGE", inbox, start, "+", "COUNT", _PAGE) for inbox, start in starts.items()]
        pages = cast("list[list[tuple[bytes, list[bytes]]]]", pipeline(connection, ranges[:BATCH]))
        for inbox, page in zip(list(starts), pages, strict=False):
            found += [request for entry, fields in page if (request := _request(entry, fields))]
            count += len(page)
            if len(page) < _PAGE:
                del starts[inbox]
            else:
                starts[inbox] = f"({page[-1][0].decode()}"
    return found


def _request(entry: bytes, flat: Sequence[bytes]) -> _Request | None:
    fields = dict(zip(flat[::2], flat[1::2], strict=False))
    try:
        if fields[b"kind"] != b"request":
            return None
        meta = orjson.loads(fields[b"meta"])
        return _Request(
            site=str(meta["client"]),
            instance=str(meta["instance"]),
            topic=fields[b"topic"].decode(),
            task_id=str(meta.get("task_id", "")),
            since=int(entry.partition(b"-")[0]),
        )
    except (KeyError, ValueError, TypeError, AttributeError):
        return None


def _sites(
    members: Sequence[Member], now: int, tasks: Sequence[JobTaskView], requests: Sequence[_Request]
) -> list[SiteView]:
    working_on: defaultdict[str, list[tuple[str, str, ClientTaskView]]] = defaultdict(list)
    answered = Counter[str]()
    for task in tasks:
        for client_task in task.client_tasks:
            if client_task.received:
                answered[client_task.site] += 1
            elif task.is_open:
                working_on[client_task.site].append((task.record.root_id, task.record.name, client_task))
    inbox: defaultdict[tuple[str, str], list[_Request]] = defaultdict(list)
    for each in requests:
        inbox[each.site, each.instance].append(each)
    sites = []
    for member in members:
        mine = inbox[member.name, member.instance]
        requested = [each.since for each in mine if each.topic == "get_task"]
        sites.append(
            SiteView(
                name=member.name,
                cell=member.cell,
                presence=site_of_job(member, now),
                props=member.props,
                # of several only the last is answered with a task
                requested=requested[-1] if requested else 0,
                submitted={each.task_id: each.since for each in reversed(mine) if each.topic == "submit"},
                working_on=tuple(working_on[member.name]),
                answered=answered[member.name],
            )
        )
    return sites


def _read_tasks(connection: Connection, keys: JobKeys, roots: Sequence[str], now: int) -> list[JobTaskView]:
    """Read the ledgers of some tasks; skip those that have expired meanwhile."""
    names = pipeline(connection, [("HKEYS", keys.task(root)) for root in roots])
    read = [
        _read_task(connection, keys.task(root), root, cast("list[bytes]", fields), now)
        for root, fields in zip(roots, names, strict=True)
    ]
    return [task for task in read if task]


def _last_ended(connection: Connection, keys: JobKeys, ledgers: Iterable[str]) -> list[str]:
    """Root ids of the tasks that ended last, the newest first."""
    names = sorted(set(ledgers))
    replies = cast("list[list[bytes | None]]", pipeline(connection, [("HMGET", name, *_ENDING) for name in names]))
    ended = []
    for name, (status, at, kind) in zip(names, replies, strict=True):
        if status and kind and status != STANDING.encode() and at and at.isdigit():
            ended.append((int(at), name.removeprefix(keys.task(""))))
    return [root for _, root in sorted(ended, reverse=True)[:MOST_ENDED]]


def _read_task(connection: Connection, key: str, root: str, names: Sequence[bytes], now: int) -> JobTaskView | None:
    """Read one ledger without the bytes of its payloads; None if it has expired."""
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
    record = read_task(key, root, ledger)
    return JobTaskView(record=record, now=now, size=size, blob=prefix, blob_bytes=nbytes)


def _blob(ref: bytes | None) -> tuple[str, int]:
    """Prefix and bytes of the chunks that a ledger names; ("", 0) without any."""
    try:
        decoded = orjson.loads(ref or b"{}")
        return str(decoded.get("prefix", "")), sum(map(int, decoded.get("sizes", ())))
    except (ValueError, TypeError, AttributeError) as error:
        raise RedflareError(f"data:blobs of a task cannot be read: {ref!r:.200}: {error!r}") from None
