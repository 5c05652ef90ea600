"""Every key and channel of the protocol, and nowhere else a key is formatted.

``Keys(namespace)`` holds those of the federation; ``Keys.link(fqcn)`` those of one agent's link, which share the hash
tag ``{fqcn}`` and so are on one shard of a cluster, where one script may touch them together.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from .errors import ConfigError
from .fqcn import FQCN

DEFAULT_NAMESPACE: Final = "flare"


@dataclass(frozen=True, slots=True, kw_only=True)
class _TaggedKeys:
    """Keys that share a hash tag, and so are on one shard of a cluster."""

    namespace: str
    fqcn: str
    #: What all of them begin with.
    prefix: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "prefix", f"{self.namespace}:{{{self.fqcn}}}")

    def by_name(self) -> dict[str, str]:
        """Return the keys and channels that take no argument, by their names, which scripts use too."""
        return {name: getattr(self, name) for name, key in vars(type(self)).items() if isinstance(key, _Key)}


class _Key(property):
    """A key or channel that takes no argument: the tag, and the name of its attribute unless another is given."""

    def __init__(self, doc: str, name: str = "") -> None:
        super().__init__(lambda keys: f"{keys.prefix}:{self._name}")
        self.__doc__ = doc
        self._name = name

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = self._name or name

    if TYPE_CHECKING:

        def __get__(self, keys: _TaggedKeys, owner: type | None = None) -> str: ...  # type: ignore[override]


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkKeys(_TaggedKeys):
    """Keys and channels of one agent's link; all carry the hash tag ``{fqcn}``."""

    tasks = _Key("stream; CJ writes, agent reads; an entry goes when its task is submitted, refused or aborted; TTL.")
    results = _Key(
        "stream; agent writes, CJ reads; an entry goes when settled (an accepted one: with the next task); TTL."
    )
    link = _Key("hash; scripts write, both sides read: instances, epochs, open task; TTL renewed by heartbeats.")
    dead = _Key("stream, capped; readers move what they cannot decode here, people read it; TTL.")
    supervisor = _Key("string, JSON; the supervisor of an agent's process writes, client parents read; TTL.")
    abort = _Key("channel; scripts publish, agent listens; a wake-up: abort.")
    notice = _Key("channel; scripts publish, agent listens; a wake-up: accepted, rejected, resend, hello, bye.")

    def task(self, task_id: str) -> str:
        """hash, the task's ledger; scripts write, both sides read; TTL, shorter once it is settled."""
        return f"{self.prefix}:task:{task_id}"

    def heartbeat(self, role: str) -> str:
        """string, JSON; written by ``role`` (``agent`` or ``cj``), read by the other side; TTL."""
        return f"{self.prefix}:heartbeat:{role}"

    def task_blob(self, blob_id: str) -> str:
        """string, ``<this>:<n>`` for each chunk of a task's payload; CJ writes, agent reads; TTL."""
        return f"{self.prefix}:blob:task-{blob_id}"

    def result_blob(self, blob_id: str) -> str:
        """string, ``<this>:<n>`` for each chunk of a result's payload; agent writes, CJ reads; TTL."""
        return f"{self.prefix}:blob:result-{blob_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobKeys(_TaggedKeys):
    """Keys of one job's state; all carry the hash tag ``{fqcn}`` of the cell of the job's server."""

    job = _Key(
        "hash; server writes, all read: run, status, checkpoint, a controller's state; TTL renewed by the server."
    )
    clients = _Key("set, names of the clients; each adds its own, server reads; TTL renewed by the server.")
    standing = _Key("sorted set, member = root id, score = order; open tasks; server writes and reads; TTL.")
    ended = _Key("sorted set, member = root id, score = order; tasks ended since the last checkpoint; TTL.")
    history = _Key("hash, field = number, value = JSON; what a controller has appended; server writes and reads; TTL.")
    blobs = _Key(
        "hash, field = prefix, value = chunks and run; payloads that the server owns; TTL renewed by the server."
    )
    cell = _Key("hash of the server's cell: the instance and epoch that serve the job.")
    server_heartbeat = _Key("The heartbeat of the server's cell, read by clients.", name="heartbeat")

    def task(self, root_id: str) -> str:
        """hash, the record of a task and its client tasks; server writes and reads; TTL, shorter once it is over."""
        return f"{self.prefix}:task:{root_id}"

    def client(self, client: str) -> str:
        """string, JSON; the record of a client; written by the client, read by the server; TTL renewed by both."""
        return f"{self.prefix}:client:{client}"

    def heartbeat(self, client: str) -> str:
        """string, JSON; written by the client, read by the server; TTL."""
        return f"{self.prefix}:heartbeat:{client}"

    def blob(self, blob_id: str) -> str:
        """string, ``<this>:<n>`` for each chunk of a payload of the server; sites and their agents read it; TTL."""
        return f"{self.prefix}:blob:{blob_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CellKeys(_TaggedKeys):
    """Keys and a channel of one cell; all carry the hash tag ``{fqcn}``."""

    senders = _Key(
        "set, owners of the cells that have written to this one; each adds its own; TTL renewed by the cell."
    )
    doorbell = _Key("channel; a sender publishes its owner when it is new in the set, the cell listens; a wake-up.")
    cell = _Key(
        "hash; scripts write, its cell reads: instance, epoch, since, closed, host, pid; TTL renewed by heartbeats."
    )
    heartbeat = _Key("string, JSON; its cell writes, others read; TTL.")
    dead = _Key("stream, capped; its cell moves what it cannot decode here, people read it; TTL.")

    def inbox(self, owner: str) -> str:
        """stream; cells of this owner write, its cell reads and deletes; requests, replies and events; TTL."""
        return f"{self.prefix}:inbox:{owner}"

    def blob(self, blob_id: str) -> str:
        """string, ``<this>:<n>`` for each chunk of a message's payload; sender writes, receiver reads; TTL."""
        return f"{self.prefix}:blob:{blob_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreKeys(_TaggedKeys):
    """Keys of the job store of one server; all carry the hash tag ``{fqcn}`` of its cell."""

    jobs = _Key("sorted set, member = job id, score = submitted in ms of Redis's clock; scripts write, all read; TTL.")
    policy = _Key("string, JSON: how long the server keeps jobs; the server writes, operators read; TTL.")
    deleted = _Key(
        "sorted set, member = job id and submission, score = deleted in ms of Redis's clock; scripts write, all read; "
        "TTL renewed by the server."
    )

    def record(self, job_id: str) -> str:
        """hash, the record of a job; scripts write, all read; TTL renewed by the server until its end."""
        return f"{self.prefix}:job:{job_id}:record"

    def log(self, job_id: str) -> str:
        """stream, capped; server and sites write, people read; TTL as the record's."""
        return f"{self.prefix}:job:{job_id}:log"

    @property
    def cell(self) -> CellKeys:
        """The keys of the server's cell, to which changes are announced."""
        return CellKeys(namespace=self.namespace, fqcn=self.fqcn)

    def blob(self, blob_id: str) -> str:
        """Chunks of archives and results; payloads of the server's cell, which sites may read by reference."""
        return f"{self.prefix}:blob:{blob_id}"


@dataclass(frozen=True, slots=True)
class Keys:
    """Keys of a federation."""

    namespace: str = DEFAULT_NAMESPACE

    def __post_init__(self) -> None:
        if not isinstance(self.namespace, str) or not self.namespace:
            raise ConfigError(f"namespace must be a non-empty str, but got {self.namespace!r}")
        FQCN.check_segment(self.namespace, "namespace")

    def link(self, fqcn: str) -> LinkKeys:
        """Return the keys of the link whose agent is called ``fqcn``."""
        return LinkKeys(namespace=self.namespace, fqcn=FQCN.check(fqcn))

    def job(self, fqcn: str) -> JobKeys:
        """Return the keys of the job whose server's cell is called ``fqcn``."""
        return JobKeys(namespace=self.namespace, fqcn=FQCN.check(fqcn))

    def cell(self, fqcn: str) -> CellKeys:
        """Return the keys of the cell called ``fqcn``."""
        return _cell_keys(self.namespace, fqcn)

    def store(self, fqcn: str = "server") -> StoreKeys:
        """Return the keys of the job store of the server whose cell is called ``fqcn``."""
        return StoreKeys(namespace=self.namespace, fqcn=FQCN.check(fqcn))

    @property
    def agents(self) -> str:
        """sorted set, member = FQCN, score = last seen in seconds of Redis's clock; agents write, people read; TTL."""
        return f"{self.namespace}:agents"


@lru_cache(maxsize=4096)
def _cell_keys(namespace: str, fqcn: str) -> CellKeys:
    """Return the keys of a cell; every message asks for those of its target, which are few."""
    return CellKeys(namespace=namespace, fqcn=FQCN.check(fqcn))


def room_note(prefix: str) -> str:
    """string, JSON; who waits until the payload of this prefix fits; its writer writes, people read; TTL."""
    return f"{prefix}:waits"


def names_payload(namespace: str, prefix: str) -> bool:
    """Whether chunks under ``prefix`` are a task's: a CJ's own, or those of a cell that it passes on by reference."""
    return re.fullmatch(rf"{namespace}:{{[\w.~-]+}}:blob:[\w.~:-]+", prefix, re.ASCII) is not None
