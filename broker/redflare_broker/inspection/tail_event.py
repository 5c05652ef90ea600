"""``TailEvent``: made from a stream entry, a task's ledger, the state of a side, or a wake-up message. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

from redflare_broker.constants import TOPIC_GET_TASK, TOPIC_SUBMIT_RESULT
from redflare_broker.scripts.task_states import FETCHED, NEW, SUBMITTED
from redflare_broker.util import humanize

from .presence import LinkPresence
from .task_view import TaskView

#: task, result: a stream entry; ledger: a task's state; agent, cj: the state of a side; abort, notice: a wake-up
#: message; server: the tail's connection.
Kind = Literal["task", "result", "ledger", "agent", "cj", "abort", "notice", "server"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TailEvent:
    """One thing that happened on a link."""

    #: ms of Redis's clock
    time_ms: int
    kind: Kind
    fqcn: str
    task_id: str = ""
    text: str
    #: the fields it was made from, without payload
    facts: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        return {"time": humanize.iso(self.time_ms), **asdict(self)}


def stream_event(fqcn: str, kind: Literal["task", "result"], entry_id: str, flat: Sequence[bytes]) -> TailEvent:
    """Describe a stream's entry, also one that is not of redflare."""
    fields = dict(zip(flat[::2], flat[1::2], strict=False))
    facts = {name.decode(): value.decode("utf-8", "backslashreplace") for name in _SHOWN if (value := fields.get(name))}
    nbytes = sum(map(len, flat))
    topic, rc = facts.get("topic", ""), facts.get("rc", "")
    if topic == TOPIC_GET_TASK and kind == "task":
        text = f"task {facts.get('task_name', '')!r} in the stream ({_payload(facts, nbytes)})"
    elif topic == TOPIC_SUBMIT_RESULT:
        text = f"result in the stream, rc {rc} ({_payload(facts, nbytes)})"
    elif topic == TOPIC_GET_TASK:
        text = f"the agent refused the task, rc {rc}: {facts.get('reason', '')}"
    else:
        text = f"unknown entry: {len(fields)} fields, {humanize.size(nbytes)}"
    time_ms = int(entry_id.partition("-")[0])
    facts["entry"] = entry_id
    return TailEvent(time_ms=time_ms, kind=kind, fqcn=fqcn, text=text, task_id=facts.get("task_id", ""), facts=facts)


def ledger_events(task: TaskView) -> list[TailEvent]:
    """Return the states of a task since it was assigned, the present one last.

    A ledger is read some time after it has changed, and may have changed again: its times show the states in between.
    """
    tries = f", attempt {task.attempt}" if task.attempt > 1 else ""
    course = [
        (NEW, task.assigned, f"assigned by CJ {task.session}"),
        (FETCHED, task.fetched, f"fetched by agent {task.agent}{tries}"),
        (SUBMITTED, task.submitted, f"submitted by agent {task.agent}, rc {task.rc}"),
    ]
    passed = next((place for place, (status, _, _) in enumerate(course) if status == task.status), len(course))
    steps = [step for step in course[:passed] if step[1] >= max(task.assigned, 1)]
    if passed == len(course):
        steps.append((task.status, task.settled, task.reason))
    else:
        status, _, what = course[passed]
        steps.append((status, task.since, f"{what}, again: {task.reason}" if task.reason else what))
    return [_ledger_event(task, status, time_ms, what) for status, time_ms, what in steps]


def _ledger_event(task: TaskView, status: str, time_ms: int, what: str) -> TailEvent:
    facts = {"status": status, "attempt": str(task.attempt)}
    if status == task.status:
        facts |= {"rc": task.rc, "reason": task.reason}
    text = f"{status}: {what}" if what else status
    return TailEvent(time_ms=time_ms, kind="ledger", fqcn=task.fqcn, text=text, task_id=task.task_id, facts=facts)


def lost_event(fqcn: str, task_id: str, now_ms: int) -> TailEvent:
    """Report that the ledger of an open task is gone."""
    text = "LOST: its ledger is gone, Redis has lost its data or it was deleted"
    return TailEvent(time_ms=now_ms, kind="ledger", fqcn=fqcn, text=text, task_id=task_id, facts={"status": "LOST"})


def presence_event(fqcn: str, side: LinkPresence, now_ms: int) -> TailEvent:
    """Report the new state of a side."""
    text = f"{side.label} {side.place} connected" if side.connected else side.absence
    facts = {"state": side.state, "instance": side.instance, "epoch": str(side.epoch)}
    return TailEvent(time_ms=now_ms, kind=side.role, fqcn=fqcn, text=text, facts=facts)


def _payload(facts: dict[str, str], nbytes: int) -> str:
    return f"{humanize.size(nbytes)}, payload in blobs" if "blobs" in facts else humanize.size(nbytes)


_SHOWN = (b"v", b"topic", b"task_id", b"task_name", b"rc", b"epoch", b"session", b"sender", b"reason", b"blobs")
