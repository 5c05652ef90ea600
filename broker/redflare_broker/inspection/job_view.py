"""A job as people want to see it: who serves it, who takes part, which tasks stand, and what each of them waits for.

Plain data, made by ``JobInspector``. Times are in ms; those of Redis's clock and those of the server's clock (of its
tasks) are compared as if they were one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from redflare_broker.job_state.task_record import STANDING, ClientTaskRecord, TaskRecord

from .job_presence import JobPresence

#: Status of a job that goes on.
RUNNING: Final = "RUNNING"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTaskView:
    """One site's share of a task."""

    id: str
    site: str
    #: When it was sent last, and how often it was sent.
    sent: int
    count: int
    #: When its result was taken; 0: it has none yet.
    received: int
    #: Return code of the result.
    rc: str
    now: int

    @classmethod
    def read(cls, record: ClientTaskRecord, now: int) -> ClientTaskView:
        return cls(
            id=record.id,
            site=record.client,
            sent=round(record.sent * 1000),
            count=record.count,
            received=round(record.received * 1000),
            rc=record.rc,
            now=now,
        )

    @property
    def age(self) -> float:
        """Seconds since it was sent last."""
        return max(0, self.now - self.sent) / 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class JobTask:
    """One task and what became of it."""

    root_id: str
    name: str
    #: broadcast, broadcast_forever, send or relay
    kind: str
    order: int
    #: STANDING, or how it ended: ok, timeout, error, cancelled, aborted, ignored, client_dead
    status: str
    scheduled: int
    ended: int
    #: in seconds; 0: none
    timeout: int
    #: None: whoever joins
    targets: tuple[str, ...] | None
    options: Mapping[str, Any]
    #: in the order in which they were sent
    client_tasks: tuple[ClientTaskView, ...]
    #: Bytes of its data, and those that are in chunks: under which prefix, how many, and how many of them are there.
    #: All 0 and "" when the ledger does not hold the data: the controller cannot resume, or the task has ended.
    size: int = 0
    blob: str = ""
    blob_bytes: int = 0
    stored: int = 0
    #: why it is not done, in words; "" when it is
    waiting: str = ""
    now: int = 0

    @classmethod
    def read(cls, record: TaskRecord, now: int) -> JobTask:
        return cls(
            root_id=record.root_id,
            name=record.name,
            kind=record.kind,
            order=record.order,
            status=record.status,
            scheduled=round(record.scheduled * 1000),
            ended=round(record.ended * 1000),
            timeout=record.timeout,
            targets=record.targets,
            options=record.options,
            client_tasks=tuple(ClientTaskView.read(each, now) for each in record.client_tasks),
            now=now,
        )

    @property
    def stands(self) -> bool:
        return self.status == STANDING

    @property
    def age(self) -> float:
        """Seconds since it was scheduled, or since it ended."""
        return max(0, self.now - (self.ended or self.scheduled)) / 1000

    @property
    def timeout_left(self) -> float | None:
        """Seconds until it times out; None: it does not."""
        return max(0.0, self.timeout - self.age) if self.timeout and self.stands else None

    @property
    def holders(self) -> tuple[ClientTaskView, ...]:
        """Who has it and has not answered."""
        return tuple(each for each in self.client_tasks if not each.received)

    @property
    def answers(self) -> tuple[ClientTaskView, ...]:
        """Who has answered."""
        return tuple(each for each in self.client_tasks if each.received)

    @property
    def not_asked(self) -> tuple[str, ...]:
        """Targets that have never got it."""
        sent = {each.site for each in self.client_tasks}
        return tuple(dict.fromkeys(name for name in self.targets or () if name not in sent))

    def to_json(self) -> dict[str, object]:
        shares = [{**asdict(each), "age": each.age} for each in self.client_tasks]
        left = {"age": self.age, "timeout_left": self.timeout_left, "not_asked": self.not_asked}
        return {**asdict(self), "client_tasks": shares, **left}


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteView:
    """One site on the roll of a job."""

    name: str
    #: FQCN of its cell
    cell: str
    attendance: JobPresence
    props: Mapping[str, Any] = field(default_factory=dict)
    #: It has asked for a task and waits since then; 0: it does not.
    asks_since: int = 0
    #: Client tasks whose results stand in the server's inbox, and since when.
    brings: Mapping[str, int] = field(default_factory=dict)
    #: What it has, as root id and name of the task and its share of it.
    has: tuple[tuple[str, str, ClientTaskView], ...] = ()
    #: How many client tasks it has answered, of tasks that are not forgotten.
    answered: int = 0

    def to_json(self) -> dict[str, object]:
        has = [{"root_id": root, "task": name, **asdict(share), "age": share.age} for root, name, share in self.has]
        return {**asdict(self), "attendance": self.attendance.to_json(), "has": has}


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView:
    """One job at the time ``now``."""

    #: FQCN of its server's cell
    fqcn: str
    #: RUNNING, or how it ended; "" when sites have joined and no server has begun it
    status: str
    reason: str
    #: the server's run, and the run before it
    run: str
    previous: str
    #: NEW or RESUMED, and when
    began: str
    begun: int
    started: int
    ended: int
    #: how many checkpoints there were
    checkpoint: int
    server: JobPresence
    sites: tuple[SiteView, ...]
    #: tasks that stand, in the order in which they were scheduled
    tasks: tuple[JobTask, ...]
    #: the last that ended and are not forgotten, the newest first
    ended_tasks: tuple[JobTask, ...] = ()
    #: entries in the server's inbox, and payloads that it owns
    inbox: int = 0
    payloads: int = 0
    #: what the whole job waits for, in words
    waiting: str = ""
    now: int = 0

    @property
    def job_id(self) -> str:
        return self.fqcn.rpartition(".")[2]

    @property
    def runs(self) -> bool:
        return self.status in ("", RUNNING)

    @property
    def age(self) -> float:
        """Seconds since it was started, or since it ended."""
        return max(0, self.now - (self.ended or self.started or self.now)) / 1000

    @property
    def connected(self) -> int:
        """How many sites are connected."""
        return sum(site.attendance.connected for site in self.sites)

    def to_json(self) -> dict[str, object]:
        nested = {
            "server": self.server.to_json(),
            "sites": [site.to_json() for site in self.sites],
            "tasks": [task.to_json() for task in self.tasks],
            "ended_tasks": [task.to_json() for task in self.ended_tasks],
        }
        return {**asdict(self), "job_id": self.job_id, "age": self.age, **nested}
