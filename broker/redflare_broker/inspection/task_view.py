"""One task as its ledger tells it: where it stands, what happened when, and why it waits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from redflare_broker.scripts.script import BLOB_MISSING
from redflare_broker.scripts.task_states import ABORTED, ACCEPTED, FETCHED, NEW, REJECTED, SUBMITTED
from redflare_broker.util import humanize

from .presence import LinkPresence

_SETTLED = (ACCEPTED, REJECTED, ABORTED)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEvent:
    """One step of a task's story."""

    #: ms of Redis's clock
    time_ms: int
    what: str

    def to_json(self) -> dict[str, object]:
        return {"time": humanize.iso(self.time_ms), "time_ms": self.time_ms, "what": self.what}


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskView:
    """The ledger of one task; times are ms of Redis's clock, 0 for what has not happened."""

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
    #: prefixes of the blobs; "" for a payload that stands in its stream entry
    blob: str = ""
    result_blob: str = ""
    #: ids of the entries in the streams tasks and results
    entry: str = ""
    result: str = ""
    assigned: int = 0
    fetched: int = 0
    submitted: int = 0
    settled: int = 0
    #: the time of this look, and how long the ledger still stands without being renewed
    now: int = 0
    ttl_ms: int = 0

    @classmethod
    def read(cls, fqcn: str, task_id: str, ledger: Mapping[str, str], now_ms: int, ttl_ms: int) -> TaskView:
        texts = {name: ledger.get(name, "") for name in _TEXTS}
        numbers = {name: _number(ledger.get(name, "")) for name in _NUMBERS}
        return cls(fqcn=fqcn, task_id=task_id, **texts, **numbers, now=now_ms, ttl_ms=ttl_ms)  # type: ignore[arg-type]

    @property
    def is_settled(self) -> bool:
        return self.status in _SETTLED

    @property
    def since(self) -> int:
        """When it came to its status, in ms."""
        at = {NEW: max(self.assigned, self.fetched), FETCHED: self.fetched, SUBMITTED: self.submitted}
        return at.get(self.status, self.settled)

    @property
    def age(self) -> float:
        """Seconds in its status."""
        return max(0, self.now - self.since) / 1000

    def moments(self) -> list[TaskEvent]:
        """What happened, in its order; of repeated steps the last."""
        tries = f", attempt {self.attempt}" if self.attempt > 1 else ""
        settled = f"settled {self.status}" + (f": {self.reason}" if self.reason else "")
        steps = [
            TaskEvent(time_ms=self.assigned, what=f"assigned by CJ {self.session} ({humanize.size(self.size)})"),
            TaskEvent(time_ms=self.fetched, what=f"fetched by agent {self.agent}{tries}"),
            TaskEvent(
                time_ms=self.submitted, what=f"result submitted, rc {self.rc} ({humanize.size(self.result_size)})"
            ),
            TaskEvent(time_ms=self.settled, what=settled),
        ]
        return sorted((step for step in steps if step.time_ms), key=lambda step: step.time_ms)

    def to_json(self) -> dict[str, object]:
        moments = [step.to_json() for step in self.moments()]
        return {**asdict(self), "since": self.since, "age": self.age, "moments": moments}


def waiting(task: TaskView, agent: LinkPresence, cj: LinkPresence) -> str:
    """Where a task stands and whose turn it is: "NEW for 12 s: no agent is connected (last beat 3 min ago)"."""
    head = f"{task.status} for {humanize.age(task.age)}"
    if task.is_settled:
        reason = f": {task.reason}" if task.reason else ""
        return f"{task.status} {humanize.age(task.age)} ago{reason}"
    if task.status == FETCHED:
        return f"{head}{_in_hands(task, agent)}"
    if task.status == SUBMITTED:
        return f"{head}: {cj.absence or f'the CJ ({cj.place}) has not taken the result yet'}"
    if task.rc == BLOB_MISSING:
        return f"{head}: its payload is lost, " + (cj.absence or "the CJ is asked to send it again")
    return f"{head}: {agent.absence or f'the agent ({agent.place}) has not fetched it yet'}"


def _in_hands(task: TaskView, agent: LinkPresence) -> str:
    if task.epoch < agent.epoch:
        turn = agent.absence or f"the new one ({agent.place}) gets it next"
        return f" by an instance that has been replaced: {turn}"
    if agent.connected:
        return f" by {agent.place}" + (f", attempt {task.attempt}" if task.attempt > 1 else "")
    return f": {agent.absence}, a new instance would get it"


_TEXTS = ("name", "status", "rc", "reason", "session", "agent", "blob", "result_blob", "entry", "result")
_NUMBERS = ("attempt", "epoch", "size", "result_size", "assigned", "fetched", "submitted", "settled")


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0
