"""Looking in: what stands in Redis for a federation, read and never changed.

Links are found by SCAN over all primaries and by ``ns:agents``; each is then read in one round trip on its own shard.
The parts of one view are of about the same moment, not of exactly the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final, cast

from .connection import Server
from .dead_letters import DeadLetter, DeadLetters
from .entry import check_task_id
from .errors import ConfigError
from .fqcn import FQCN
from .keys import DEFAULT_NAMESPACE, Keys, LinkKeys
from .lane import Command, Lane, Reply, require
from .presence import Presence, read_presence
from .story import TaskStory, waiting

#: Chunks whose lengths are asked for in one go.
_BATCH: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkStatus:
    """One agent's link."""

    fqcn: str
    agent: Presence
    cj: Presence
    #: the open task
    task: TaskStory | None
    #: where the open task stands and whose turn it is, in words; "" without one
    waiting: str
    #: entries in the streams
    tasks: int
    results: int
    dead: int
    #: payload of the open task (it may be shared with other links), and of this link's results
    task_blob_bytes: int = 0
    result_blob_bytes: int = 0
    #: the time of this look in ms of Redis's clock
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
    """All links of a namespace, sorted by FQCN."""

    url: str
    namespace: str
    links: tuple[LinkStatus, ...]
    #: all payload chunks that stand in Redis, shared ones counted once
    blob_chunks: int
    blob_bytes: int

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "links": [link.to_json() for link in self.links]}


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskView:
    """One task on one link: its story, both sides, and what is left of its payloads."""

    story: TaskStory
    agent: Presence
    cj: Presence
    waiting: str
    task_blob_bytes: int
    result_blob_bytes: int

    def to_json(self) -> dict[str, object]:
        return {
            **self.story.to_json(),
            "waiting": self.waiting,
            "agent_side": self.agent.to_json(),
            "cj_side": self.cj.to_json(),
            "task_blob_bytes": self.task_blob_bytes,
            "result_blob_bytes": self.result_blob_bytes,
        }


class Inspector:
    """Read-only views of one namespace; every method raises Unavailable at once when the server is away."""

    def __init__(self, server: Server, namespace: str = DEFAULT_NAMESPACE) -> None:
        self.server = server
        self.keys = Keys(namespace)

    def status(self) -> FederationStatus:
        """Every link, with the payload that stands in Redis."""
        names = set(self.server.scan(f"{self.keys.namespace}:*"))
        seen = self._seen()
        chunks = self._chunk_sizes(names)
        fqcns = set(self._fqcns(names, "link")) | set(seen)
        links = tuple(self._link(fqcn, seen.get(fqcn, 0), chunks) for fqcn in sorted(fqcns))
        return FederationStatus(
            url=self.server.url,
            namespace=self.keys.namespace,
            links=links,
            blob_chunks=len(chunks),
            blob_bytes=sum(chunks.values()),
        )

    def link(self, fqcn: str) -> LinkStatus:
        """One link; its payload is not measured. Both sides are "never" where nobody was, or all is forgotten."""
        keys = self.keys.link(fqcn)
        with self.server.borrow(self.keys.agents) as lane:
            score = cast("bytes | None", lane.call("ZSCORE", self.keys.agents, keys.fqcn))
        return self._link(fqcn, _milliseconds(score) if score else 0, {})

    def task(self, task_id: str, fqcn: str | None = None) -> list[TaskView]:
        """A task by its id, on every link that knows it, or on one.

        Raises:
            ConfigError: the id or the FQCN is not legal.
        """
        suffix = f"task:{check_task_id(task_id)}"
        found = [fqcn] if fqcn else self._fqcns(self.server.scan(f"{self.keys.namespace}:{{*}}:{suffix}"), suffix)
        return [view for name in found if (view := self._view(name, task_id))]

    def story(self, fqcn: str, task_id: str) -> TaskStory | None:
        """One task's ledger; None when there is none."""
        keys = self.keys.link(fqcn)
        with self.server.borrow(keys.link) as lane:
            return _story(lane, keys, task_id)

    def now(self, fqcn: str) -> int:
        """The clock of the Redis that holds a link, in ms."""
        route = self.keys.link(fqcn).link
        with self.server.borrow(route) as lane:
            return _now(lane.call("TIME"))

    def dead_letters(self, fqcn: str) -> DeadLetters:
        return DeadLetters(server=self.server, keys=self.keys.link(fqcn))

    def all_dead_letters(self) -> list[DeadLetter]:
        """The dead letters of all links, by FQCN, the oldest first."""
        fqcns = self._fqcns(self.server.scan(f"{self.keys.namespace}:{{*}}:dead"), "dead")
        return [letter for fqcn in fqcns for letter in self.dead_letters(fqcn).all()]

    def _fqcns(self, names: Iterable[str], suffix: str) -> list[str]:
        """FQCNs of the keys ``ns:{fqcn}:<suffix>`` among ``names``; what is not a legal FQCN is none of ours."""
        head, tail = f"{self.keys.namespace}:{{", f"}}:{suffix}"
        inner = (name[len(head) : -len(tail)] for name in names if name.startswith(head) and name.endswith(tail))
        return sorted({fqcn for fqcn in inner if _is_fqcn(fqcn)})

    def _seen(self) -> dict[str, int]:
        """When each agent was last seen, in ms of Redis's clock."""
        with self.server.borrow(self.keys.agents) as lane:
            flat = cast("list[bytes]", lane.call("ZRANGE", self.keys.agents, 0, -1, "WITHSCORES"))
        pairs = zip(flat[::2], flat[1::2], strict=True)
        seen = {name.decode("utf-8", "replace"): _milliseconds(score) for name, score in pairs}
        return {fqcn: at for fqcn, at in seen.items() if _is_fqcn(fqcn)}

    def _chunk_sizes(self, names: Iterable[str]) -> dict[str, int]:
        """Bytes of every payload chunk among ``names``."""
        blobs: dict[str, list[str]] = {}
        pattern = re.compile(re.escape(self.keys.namespace) + r":(blob:\{[^}]+\}|\{[^}]+\}:blob:.+):[0-9]+")
        for name in names:
            if pattern.fullmatch(name):
                blobs.setdefault(name.rpartition(":")[0], []).append(name)
        sizes: dict[str, int] = {}
        for prefix, chunks in blobs.items():
            with self.server.borrow(prefix) as lane:
                for at in range(0, len(chunks), _BATCH):
                    batch = chunks[at : at + _BATCH]
                    replies = _pipeline(lane, [("STRLEN", chunk) for chunk in batch])
                    sizes.update(zip(batch, cast("list[int]", replies), strict=True))
        return {chunk: count for chunk, count in sizes.items() if count}

    def _link(self, fqcn: str, seen_ms: int, chunks: Mapping[str, int]) -> LinkStatus:
        keys = self.keys.link(fqcn)
        with self.server.borrow(keys.link) as lane:
            sides = _read_sides(lane, keys, seen_ms)
            lengths = _pipeline(lane, [("XLEN", stream) for stream in (keys.tasks, keys.results, keys.dead)])
            task = _story(lane, keys, sides.open_task) if sides.open_task else None
        tasks, results, dead = cast("list[int]", lengths)
        own = sum(count for chunk, count in chunks.items() if chunk.startswith(keys.result_blob("")))
        shared = task.blob + ":" if task and task.blob else None
        return LinkStatus(
            fqcn=fqcn,
            agent=sides.agent,
            cj=sides.cj,
            task=task,
            waiting=waiting(task, sides.agent, sides.cj) if task else "",
            tasks=tasks,
            results=results,
            dead=dead,
            task_blob_bytes=sum(count for chunk, count in chunks.items() if shared and chunk.startswith(shared)),
            result_blob_bytes=own,
            now=sides.now,
        )

    def _view(self, fqcn: str, task_id: str) -> TaskView | None:
        keys = self.keys.link(fqcn)
        with self.server.borrow(keys.link) as lane:
            story = _story(lane, keys, task_id)
            sides = _read_sides(lane, keys, 0)
        if story is None:
            return None
        return TaskView(
            story=story,
            agent=sides.agent,
            cj=sides.cj,
            waiting=waiting(story, sides.agent, sides.cj),
            task_blob_bytes=self._stored(story.blob),
            result_blob_bytes=self._stored(story.result_blob),
        )

    def _stored(self, prefix: str) -> int:
        """Bytes of one blob's chunks that are there, up to the first gap of a whole batch."""
        total, first = 0, 0
        while prefix:
            with self.server.borrow(prefix) as lane:
                replies = _pipeline(lane, [("STRLEN", f"{prefix}:{first + n}") for n in range(_BATCH)])
            found = sum(cast("list[int]", replies))
            if not found:
                break
            total, first = total + found, first + _BATCH
        return total


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sides:
    agent: Presence
    cj: Presence
    open_task: str
    now: int


def _read_sides(lane: Lane, keys: LinkKeys, seen_ms: int) -> _Sides:
    beats = [(verb, keys.heartbeat(role)) for role in ("agent", "cj") for verb in ("GET", "PTTL")]
    time, link, *found = _pipeline(lane, [("TIME",), ("HGETALL", keys.link), *beats])
    agent_beat, agent_pttl, cj_beat, cj_pttl = cast("tuple[bytes | None, int, bytes | None, int]", found)
    now, held = _now(time), _hash(link)
    return _Sides(
        agent=read_presence("agent", held, agent_beat, agent_pttl, now, seen_ms),
        cj=read_presence("cj", held, cj_beat, cj_pttl, now),
        open_task=held.get("task", ""),
        now=now,
    )


def _story(lane: Lane, keys: LinkKeys, task_id: str) -> TaskStory | None:
    ledger = keys.task(task_id)
    time, fields, ttl_ms = _pipeline(lane, [("TIME",), ("HGETALL", ledger), ("PTTL", ledger)])
    held = _hash(fields)
    return TaskStory.read(keys.fqcn, task_id, held, _now(time), cast("int", ttl_ms)) if held else None


def _pipeline(lane: Lane, commands: Sequence[Command]) -> list[Reply]:
    return [require(reply, lane.node) for reply in lane.pipeline(commands)]


def _milliseconds(score: bytes) -> int:
    return int(float(score) * 1000)


def _now(time: Reply) -> int:
    seconds, micros = cast("tuple[bytes, bytes]", time)
    return int(seconds) * 1000 + int(micros) // 1000


def _hash(reply: Reply) -> dict[str, str]:
    texts = [value.decode("utf-8", "backslashreplace") for value in cast("list[bytes]", reply)]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def _is_fqcn(name: str) -> bool:
    try:
        FQCN.check(name)
    except ConfigError:
        return False
    return True
