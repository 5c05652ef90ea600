"""``Inspector``: reads all links and jobs of a namespace from Redis.

Links are found by SCAN over all primaries and in ``ns:agents``; each is then read from its own shard in a few round
trips, so its parts are of about the same moment, not of exactly the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import cast

from redflare_broker.keys import DEFAULT_NAMESPACE, Keys
from redflare_broker.link.dead_letters import DeadLetter, DeadLetters
from redflare_broker.payload.payload_store import payloads_of
from redflare_broker.payload.room import RoomWait
from redflare_broker.transport.server import Server
from redflare_broker.wire.task_entry import check_id

from .job_view import JobView
from .jobs import JobInspector
from .link_read import read_ledger, read_sides
from .presence import LinkPresence
from .redis_read import BATCH, fqcns, is_fqcn, now_of, pipeline
from .refusals import refusals, waits_for_room
from .task_view import TaskView, waiting


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkStatus:
    """One agent's link: both sides, the open task, and the length of its streams."""

    fqcn: str
    agent: LinkPresence
    cj: LinkPresence
    #: the open task
    task: TaskView | None
    #: status of the open task and who has to act, in words; "" without one
    waiting: str
    #: entries in the streams
    tasks: int
    results: int
    dead: int
    #: payload of the open task (other links may share it), and of this link's results
    task_blob_bytes: int = 0
    result_blob_bytes: int = 0
    #: when this was read, in ms of Redis's clock
    now: int

    @property
    def blob_bytes(self) -> int:
        return self.task_blob_bytes + self.result_blob_bytes

    def to_json(self) -> dict[str, object]:
        sides = {"agent": self.agent.to_json(), "cj": self.cj.to_json()}
        task = self.task.to_json() if self.task else None
        return {**asdict(self), **sides, "task": task, "blob_bytes": self.blob_bytes}


@dataclass(frozen=True, slots=True, kw_only=True)
class FederationStatus:
    """All links and jobs of a namespace, each sorted by FQCN."""

    url: str
    namespace: str
    links: tuple[LinkStatus, ...]
    #: without their ended tasks
    jobs: tuple[JobView, ...]
    #: all payload chunks in Redis, shared ones counted once
    blob_chunks: int
    blob_bytes: int
    #: what Redis refuses to write now, with the reason and what to do; all sides wait until that has passed
    refusals: tuple[str, ...] = ()
    #: who waits until a payload fits into Redis
    no_room: tuple[RoomWait, ...] = ()

    def to_json(self) -> dict[str, object]:
        links, jobs = [link.to_json() for link in self.links], [job.to_json() for job in self.jobs]
        return {**asdict(self), "links": links, "jobs": jobs}


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkTaskView:
    """One task on one link: its ledger, both sides, and the bytes of its payloads that are still in Redis."""

    task: TaskView
    agent: LinkPresence
    cj: LinkPresence
    waiting: str
    task_blob_bytes: int
    result_blob_bytes: int

    def to_json(self) -> dict[str, object]:
        sides = {"agent_side": self.agent.to_json(), "cj_side": self.cj.to_json()}
        stored = {"task_blob_bytes": self.task_blob_bytes, "result_blob_bytes": self.result_blob_bytes}
        return {**self.task.to_json(), "waiting": self.waiting, **sides, **stored}


class Inspector:
    """Read-only views of one namespace; every method raises Unavailable at once if Redis is away."""

    def __init__(self, server: Server, namespace: str = DEFAULT_NAMESPACE) -> None:
        self.server = server
        self.keys = Keys(namespace)

    @property
    def jobs(self) -> JobInspector:
        return JobInspector(self.server, self.keys)

    def links(self) -> list[str]:
        """Read the FQCNs of all links, sorted."""
        return self._linked(self.server.scan(f"{self.keys.namespace}:{{*}}:link"), self._seen())

    def _linked(self, names: Iterable[str], seen: Iterable[str]) -> list[str]:
        return sorted({*fqcns(self.keys.namespace, names, "link"), *seen})

    def status(self) -> FederationStatus:
        """Read every link and job, and measure all payload in Redis."""
        names = set(self.server.scan(f"{self.keys.namespace}:*"))
        seen = self._seen()
        chunks = self._chunk_sizes(names)
        linked = self._linked(names, seen)
        links = tuple(self._link(fqcn, seen.get(fqcn, 0), chunks) for fqcn in linked)
        return FederationStatus(
            url=self.server.url,
            namespace=self.keys.namespace,
            links=links,
            jobs=tuple(self.jobs.all(names)),
            blob_chunks=len(chunks),
            blob_bytes=sum(chunks.values()),
            refusals=refusals(self.server, [self.keys.link(fqcn) for fqcn in linked or ["preflight"]]),
            no_room=waits_for_room(self.server, self.keys.namespace, names),
        )

    def link(self, fqcn: str) -> LinkStatus:
        """Read one link without measuring its payload; both sides of an unknown one are "never"."""
        keys = self.keys.link(fqcn)
        with self.server.borrow(self.keys.agents) as connection:
            score = cast("bytes | None", connection.call("ZSCORE", self.keys.agents, keys.fqcn))
        return self._link(fqcn, _milliseconds(score) if score else 0, {})

    def task(self, task_id: str, fqcn: str | None = None) -> list[LinkTaskView]:
        """Find a task by its id on all links, or on one.

        Raises:
            ConfigError: the id or the FQCN is not legal.
        """
        namespace, suffix = self.keys.namespace, f"task:{check_id(task_id)}"
        found = [fqcn] if fqcn else fqcns(namespace, self.server.scan(f"{namespace}:{{*}}:{suffix}"), suffix)
        return [view for name in found if (view := self._link_task(name, task_id))]

    def ledger(self, fqcn: str, task_id: str) -> TaskView | None:
        """Read one task's ledger; None if there is none."""
        keys = self.keys.link(fqcn)
        with self.server.borrow(keys.link) as connection:
            return read_ledger(connection, keys, task_id)

    def now(self, fqcn: str) -> int:
        """Read the clock of the Redis that holds a link, in ms."""
        route = self.keys.link(fqcn).link
        with self.server.borrow(route) as connection:
            return now_of(connection.call("TIME"))

    def dead_letters(self, fqcn: str) -> DeadLetters:
        return DeadLetters(server=self.server, keys=self.keys.link(fqcn))

    def all_dead_letters(self) -> list[DeadLetter]:
        """Read the dead letters of all links, by FQCN, the oldest first."""
        namespace = self.keys.namespace
        found = fqcns(namespace, self.server.scan(f"{namespace}:{{*}}:dead"), "dead")
        return [letter for fqcn in found for letter in self.dead_letters(fqcn).all()]

    def _seen(self) -> dict[str, int]:
        """When each agent was last seen, in ms of Redis's clock."""
        with self.server.borrow(self.keys.agents) as connection:
            flat = cast("list[bytes]", connection.call("ZRANGE", self.keys.agents, 0, -1, "WITHSCORES"))
        pairs = zip(flat[::2], flat[1::2], strict=True)
        seen = {name.decode("utf-8", "replace"): _milliseconds(score) for name, score in pairs}
        return {fqcn: at for fqcn, at in seen.items() if is_fqcn(fqcn)}

    def _chunk_sizes(self, names: Iterable[str]) -> dict[str, int]:
        """Bytes of every payload chunk among ``names``."""
        blobs: dict[str, list[str]] = {}
        pattern = re.compile(re.escape(self.keys.namespace) + r":(\{[^}]+\}:blob:.+):[0-9]+")
        for name in names:
            if pattern.fullmatch(name):
                blobs.setdefault(name.rpartition(":")[0], []).append(name)
        sizes: dict[str, int] = {}
        for prefix, chunks in blobs.items():
            with self.server.borrow(prefix) as connection:
                for at in range(0, len(chunks), BATCH):
                    batch = chunks[at : at + BATCH]
                    replies = pipeline(connection, [("STRLEN", chunk) for chunk in batch])
                    sizes.update(zip(batch, cast("list[int]", replies), strict=True))
        return {chunk: count for chunk, count in sizes.items() if count}

    def _link(self, fqcn: str, seen_ms: int, chunks: Mapping[str, int]) -> LinkStatus:
        keys = self.keys.link(fqcn)
        with self.server.borrow(keys.link) as connection:
            agent, cj, open_task, now = read_sides(connection, keys, seen_ms)
            lengths = pipeline(connection, [("XLEN", stream) for stream in (keys.tasks, keys.results, keys.dead)])
            task = read_ledger(connection, keys, open_task) if open_task else None
        tasks, results, dead = cast("list[int]", lengths)
        own = sum(count for chunk, count in chunks.items() if chunk.startswith(keys.result_blob("")))
        shared = task.blob + ":" if task and task.blob else None
        return LinkStatus(
            fqcn=fqcn,
            agent=agent,
            cj=cj,
            task=task,
            waiting=waiting(task, agent, cj) if task else "",
            tasks=tasks,
            results=results,
            dead=dead,
            task_blob_bytes=sum(count for chunk, count in chunks.items() if shared and chunk.startswith(shared)),
            result_blob_bytes=own,
            now=now,
        )

    def _link_task(self, fqcn: str, task_id: str) -> LinkTaskView | None:
        keys = self.keys.link(fqcn)
        with self.server.borrow(keys.link) as connection:
            task = read_ledger(connection, keys, task_id)
            agent, cj, _, _ = read_sides(connection, keys, 0)
        if task is None or not task.assigned:
            # unknown, or a task of a job: its key has the same form
            return None
        payloads = payloads_of(self.server)
        return LinkTaskView(
            task=task,
            agent=agent,
            cj=cj,
            waiting=waiting(task, agent, cj),
            task_blob_bytes=payloads.stored(task.blob),
            result_blob_bytes=payloads.stored(task.result_blob),
        )


def _milliseconds(score: bytes) -> int:
    return int(float(score) * 1000)
