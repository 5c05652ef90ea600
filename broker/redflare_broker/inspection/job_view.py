"""``JobView``: a job with its server, its sites and its tasks, and what each of them is waiting for.

Plain data, made by ``JobInspector``. Times are in ms. Those of tasks are of the server's clock, all others of Redis's;
they are compared as if both clocks were one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final

from redflare_broker.job_state.awaited_sites import AwaitedSites
from redflare_broker.job_state.task_record import STANDING, ClientTaskRecord, TaskRecord
from redflare_broker.payload.room import RoomWait

from .presence import JobPresence, PresenceState

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

#: Status of a job that has not ended.
RUNNING: Final = "RUNNING"
#: The usual name of a server.
_SERVER: Final = "server"
#: Fields of records that hold payload and headers; they are not shown.
_NOT_SHOWN: Final = ("data", "meta", "result")


def job_name(fqcn: str) -> str:
    """Return a job's id, by which commands know it; with its server before it if that has another name than usual."""
    server, _, job_id = fqcn.rpartition(".")
    return job_id if server == _SERVER else fqcn


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTaskView:
    """One site's share of a task: its record at the time ``now``."""

    record: ClientTaskRecord
    now: int

    @property
    def site(self) -> str:
        return self.record.client

    @property
    def sent(self) -> int:
        """When it was sent last; 0: not yet."""
        return round(self.record.sent * 1000)

    @property
    def first_sent(self) -> int:
        """When it was sent first; 0: not yet."""
        return round((self.record.first_sent or self.record.sent) * 1000)

    @property
    def received(self) -> int:
        """When its result was accepted; 0: it has none yet."""
        return round(self.record.received * 1000)

    @property
    def age(self) -> float:
        """Seconds since it was sent last."""
        return max(0, self.now - self.sent) / 1000

    def to_json(self) -> dict[str, object]:
        times = {"sent": self.sent, "first_sent": self.first_sent, "received": self.received, "age": self.age}
        return {**_fields(self.record, *_NOT_SHOWN, "client"), "site": self.site, **times, "now": self.now}


@dataclass(frozen=True, slots=True, kw_only=True)
class JobTaskView:
    """One task of a job: its record at the time ``now``, and its payload in Redis."""

    record: TaskRecord
    now: int
    #: bytes of its data; 0 when the ledger does not hold it: the controller cannot resume, or the task has ended
    size: int = 0
    #: of data in chunks: their prefix, their bytes, and how many of these bytes are still in Redis
    blob: str = ""
    blob_bytes: int = 0
    stored: int = 0
    #: why it is not done, in words; "" when it is
    waiting: str = ""

    @property
    def is_open(self) -> bool:
        return self.record.status == STANDING

    @property
    def scheduled(self) -> int:
        return round(self.record.scheduled * 1000)

    @property
    def ended(self) -> int:
        """When it ended; 0: it is open."""
        return round(self.record.ended * 1000)

    @property
    def age(self) -> float:
        """Seconds since it was scheduled, or since it ended."""
        return max(0, self.now - (self.ended or self.scheduled)) / 1000

    @property
    def timeout_left(self) -> float | None:
        """Seconds until it times out; None: it does not."""
        return max(0.0, self.record.timeout - self.age) if self.record.timeout and self.is_open else None

    @property
    def client_tasks(self) -> tuple[ClientTaskView, ...]:
        """Every site's share, in the order in which they were sent first."""
        return tuple(ClientTaskView(record=record, now=self.now) for record in self.record.client_tasks)

    @property
    def pending(self) -> tuple[ClientTaskView, ...]:
        """Shares without a result."""
        return tuple(each for each in self.client_tasks if not each.received)

    @property
    def answered(self) -> tuple[ClientTaskView, ...]:
        """Shares with a result."""
        return tuple(each for each in self.client_tasks if each.received)

    @property
    def not_sent(self) -> tuple[str, ...]:
        """Targets that it has not been sent to."""
        sent = {each.site for each in self.client_tasks}
        return tuple(dict.fromkeys(name for name in self.record.targets or () if name not in sent))

    def to_json(self) -> dict[str, object]:
        times = {"scheduled": self.scheduled, "ended": self.ended, "age": self.age, "timeout_left": self.timeout_left}
        sites = {"client_tasks": [each.to_json() for each in self.client_tasks], "not_sent": self.not_sent}
        return {**_fields(self.record, *_NOT_SHOWN), **_fields(self, "record"), **times, **sites}


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentTaskView:
    """How a client task stands at the agent that its site has handed it to."""

    #: of the agent
    fqcn: str
    #: of the task on the link
    status: str
    attempt: int
    #: state of the agent
    agent: PresenceState
    #: status and who has to act, in words
    waiting: str

    @property
    def trouble(self) -> str:
        """``attempt 4, agent silent``; "" when its agent is there, and is the first that has it."""
        attempt = f"attempt {self.attempt}" if self.attempt > 1 else ""
        agent = "" if self.agent == "connected" else f"agent {self.agent}"
        return ", ".join(filter(None, (attempt, agent)))


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteView:
    """One site that has joined a job."""

    name: str
    #: FQCN of its cell
    cell: str
    presence: JobPresence
    props: Mapping[str, Any] = field(default_factory=dict)
    #: since when its request for a task has been waiting in the server's inbox; 0: there is none
    requested: int = 0
    #: results waiting in the server's inbox: since when, by client task id
    submitted: Mapping[str, int] = field(default_factory=dict)
    #: the open tasks it is working on: root id, name, and its share
    working_on: tuple[tuple[str, str, ClientTaskView], ...] = ()
    #: how these stand at its agents, by client task id; nothing of those that it works on by itself
    at_agent: Mapping[str, AgentTaskView] = field(default_factory=dict)
    #: its result that does not fit into Redis; None: there is none
    no_room: RoomWait | None = None
    #: how many of the job's remembered tasks it has answered
    answered: int = 0

    def troubles(self) -> list[str]:
        """Say in a few words what is wrong with its agents and its result."""
        no_room = self.no_room.problem if self.no_room else ""
        return [text for text in (no_room, *(each.trouble for each in self.at_agent.values())) if text]

    def to_json(self) -> dict[str, object]:
        working_on = [{**each.to_json(), "root_id": root, "task": name} for root, name, each in self.working_on]
        at_agent = {task_id: _fields(each) for task_id, each in self.at_agent.items()}
        no_room = _fields(self.no_room) if self.no_room else None
        details = {"working_on": working_on, "at_agent": at_agent, "no_room": no_room}
        return {**_fields(self), "presence": self.presence.to_json(), **details}


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView:
    """One job at the time ``now``."""

    #: FQCN of its server's cell
    fqcn: str
    #: RUNNING, or how it ended; "" when sites have joined and no server has started it
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
    #: number of the last checkpoint
    checkpoint: int
    #: the sites that the controller waits for before it begins; None: it has begun
    awaited: AwaitedSites | None = None
    server: JobPresence
    sites: tuple[SiteView, ...] = ()
    #: open tasks, in the order in which they were scheduled
    tasks: tuple[JobTaskView, ...] = ()
    #: the last tasks that ended and are remembered, the newest first
    ended_tasks: tuple[JobTaskView, ...] = ()
    #: entries in the server's inbox, and payloads that it owns
    inbox: int = 0
    payloads: int = 0
    #: its server's payload that does not fit into Redis; None: there is none
    no_room: RoomWait | None = None
    #: what the whole job is waiting for, in words
    waiting: str = ""
    now: int = 0

    @property
    def job_id(self) -> str:
        return self.fqcn.rpartition(".")[2]

    @property
    def name(self) -> str:
        """Its name, as ``job_name`` returns it."""
        return job_name(self.fqcn)

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
        return sum(site.presence.connected for site in self.sites)

    @property
    def trouble(self) -> str:
        """What is wrong at its server and sites: ``site-1: attempt 4, agent silent``; "" if nothing is."""
        own = [f"server: {self.no_room.problem}"] if self.no_room else []
        return "; ".join(own + [f"{site.name}: {trouble}" for site in self.sites for trouble in site.troubles()])

    def to_json(self) -> dict[str, object]:
        lists = {name: [each.to_json() for each in getattr(self, name)] for name in ("sites", "tasks", "ended_tasks")}
        own = {"job_id": self.job_id, "age": self.age, "server": self.server.to_json()}
        own["no_room"] = None if self.no_room is None else _fields(self.no_room)
        own["awaited"] = None if self.awaited is None else _fields(self.awaited)
        return {**_fields(self), **own, **lists}


def _fields(instance: DataclassInstance, *without: str) -> dict[str, Any]:
    return {each.name: getattr(instance, each.name) for each in fields(instance) if each.name not in without}
