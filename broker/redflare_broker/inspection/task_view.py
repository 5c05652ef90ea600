"""``TaskView``: one task of an agent as its ledger records it, and why it waits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from redflare_broker.scripts.script import BLOB_MISSING
from redflare_broker.scripts.task_states import ABORTED, ACCEPTED, FETCHED, NEW, REJECTED, SUBMITTED
from redflare_broker.util import humanize

from .presence import LinkPresence
from .redis_read import fields_of

_SETTLED = (ACCEPTED, REJECTED, ABORTED)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEvent:
    """One step in a task's history."""

    #: ms of Redis's clock
    time_ms: int
    text: str

    def to_json(self) -> dict[str, object]:
        return {"time": humanize.iso(self.time_ms), **asdict(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskView:
    """The ledger of one task; times are ms of Redis's clock, 0 for a step that has not happened."""

    fqcn: str
    task_id: str
    name: str = ""
    status: str = ""
    attempt: int = 0
    rc: str = ""
    reason: str = ""
    #: instance of the CJ that assigned it
    session: str = ""
    #: instance of the agent that has it, and that instance's epoch
    agent: str = ""
    epoch: int = 0
    #: bytes of the payloads of task and result
    size: int = 0
    result_size: int = 0
    #: prefixes of the blobs; "" for a payload inside its stream entry
    blob: str = ""
    result_blob: str = ""
    #: ids of the entries in the streams tasks and results
    entry: str = ""
    result: str = ""
    assigned: int = 0
    fetched: int = 0
    submitted: int = 0
    settled: int = 0
    #: when this was read, and how long the ledger lives unless it is renewed
    now: int = 0
    ttl_ms: int = 0

    @classmethod
    def read(cls, fqcn: str, task_id: str, ledger: Mapping[str, str], now_ms: int, ttl_ms: int) -> TaskView:
        """Read every field of this class that the ledger has."""
        return cls(**{**fields_of(cls, ledger), "fqcn": fqcn, "task_id": task_id, "now": now_ms, "ttl_ms": ttl_ms})

    @property
    def is_settled(self) -> bool:
        return self.status in _SETTLED

    @property
    def since(self) -> int:
        """When it entered its status, in ms."""
        at = {NEW: max(self.assigned, self.fetched), FETCHED: self.fetched, SUBMITTED: self.submitted}
        return at.get(self.status, self.settled)

    @property
    def age(self) -> float:
        """Seconds in its status."""
        return max(0, self.now - self.since) / 1000

    def events(self) -> list[TaskEvent]:
        """Return the steps so far, in order; of repeated steps the last."""
        tries = f", attempt {self.attempt}" if self.attempt > 1 else ""
        steps = [
            (self.assigned, f"assigned by CJ {self.session} ({humanize.size(self.size)})"),
            (self.fetched, f"fetched by agent {self.agent}{tries}"),
            (self.submitted, f"result submitted, rc {self.rc} ({humanize.size(self.result_size)})"),
            (self.settled, f"settled {self.status}" + (f": {self.reason}" if self.reason else "")),
        ]
        return [TaskEvent(time_ms=at, text=text) for at, text in sorted(steps, key=lambda step: step[0]) if at]

    def to_json(self) -> dict[str, object]:
        events = [event.to_json() for event in self.events()]
        return {**asdict(self), "since": self.since, "age": self.age, "events": events}


def waiting(task: TaskView, agent: LinkPresence, cj: LinkPresence) -> str:
    """Status of a task and who has to act: "NEW for 12 s: no agent is connected (last heartbeat 3 min ago)"."""
    head = f"{task.status} for {humanize.age(task.age)}" + (f", attempt {task.attempt}" if task.attempt > 1 else "")
    if task.is_settled:
        reason = f": {task.reason}" if task.reason else ""
        return f"{task.status} {humanize.age(task.age)} ago{reason}"
    if task.status == FETCHED:
        return f"{head}{_fetched(task, agent)}"
    if task.status == SUBMITTED:
        return f"{head}: {cj.absence or f'the CJ ({cj.place}) has not taken the result yet'}"
    if task.rc == BLOB_MISSING:
        return f"{head}: its payload is lost, " + (cj.absence or "waiting for the CJ to send it again")
    return f"{head}: {agent.absence or f'the agent ({agent.place}) has not fetched it yet'}"


def _fetched(task: TaskView, agent: LinkPresence) -> str:
    if task.epoch < agent.epoch:
        successor = agent.absence or f"the new one ({agent.place}) gets it next"
        return f" by an instance that has been replaced: {successor}"
    if agent.connected:
        return f" by {agent.place}"
    return f": {agent.absence}, a new instance would get it"
