"""What a tail tells: events made from stream entries, ledgers, sides and messages. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from redflare_broker.constants import TOPIC_GET_TASK, TOPIC_SUBMIT_RESULT
from redflare_broker.scripts.task_states import FETCHED, NEW, SUBMITTED
from redflare_broker.util import humanize

from .presence import LinkPresence
from .task_view import TaskView

#: task, result: a stream entry; ledger: a task's state; agent, cj: a side came or went; abort, notice: a wake-up
#: message; server: the tail's own connection.
Kind = Literal["task", "result", "ledger", "agent", "cj", "abort", "notice", "server"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TailEvent:
    """One thing that happened on a link."""

    #: ms of Redis's clock
    time_ms: int
    kind: Kind
    fqcn: str
    text: str
    task_id: str = ""
    #: the fields it was read from, payload left out
    facts: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        return {
            "time": humanize.iso(self.time_ms),
            "time_ms": self.time_ms,
            "kind": self.kind,
            "fqcn": self.fqcn,
            "task_id": self.task_id,
            "text": self.text,
            "facts": self.facts,
        }


def stream_event(fqcn: str, kind: Literal["task", "result"], entry_id: str, flat: Sequence[bytes]) -> TailEvent:
    """An entry as it stands in a stream, ours or not."""
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
        text = f"an entry that is not ours: {len(fields)} fields, {humanize.size(nbytes)}"
    time_ms = int(entry_id.partition("-")[0])
    facts["entry"] = entry_id
    return TailEvent(time_ms=time_ms, kind=kind, fqcn=fqcn, text=text, task_id=facts.get("task_id", ""), facts=facts)


def ledger_events(story: TaskView) -> list[TailEvent]:
    """The states that a task has been in since it was assigned, the one it is in last.

    A ledger is read after it has changed, and may have changed again since: its times tell what was in between.
    """
    tries = f", attempt {story.attempt}" if story.attempt > 1 else ""
    course = [
        (NEW, story.assigned, f"assigned by CJ {story.session}"),
        (FETCHED, story.fetched, f"fetched by agent {story.agent}{tries}"),
        (SUBMITTED, story.submitted, f"submitted by agent {story.agent}, rc {story.rc}"),
    ]
    passed = next((place for place, (status, _, _) in enumerate(course) if status == story.status), len(course))
    steps = [step for step in course[:passed] if step[1] >= max(story.assigned, 1)]
    if passed == len(course):
        steps.append((story.status, story.settled, story.reason))
    else:
        status, _, what = course[passed]
        steps.append((status, story.since, f"{what}, again: {story.reason}" if story.reason else what))
    return [_ledger_event(story, status, time_ms, what) for status, time_ms, what in steps]


def _ledger_event(story: TaskView, status: str, time_ms: int, what: str) -> TailEvent:
    facts = {"status": status, "attempt": str(story.attempt)}
    if status == story.status:
        facts |= {"rc": story.rc, "reason": story.reason}
    text = f"{status}: {what}" if what else status
    return TailEvent(time_ms=time_ms, kind="ledger", fqcn=story.fqcn, text=text, task_id=story.task_id, facts=facts)


def lost_event(fqcn: str, task_id: str, now_ms: int) -> TailEvent:
    """The ledger of an open task is not there any more."""
    text = "LOST: its ledger is gone, Redis has lost its data or somebody has deleted it"
    return TailEvent(time_ms=now_ms, kind="ledger", fqcn=fqcn, text=text, task_id=task_id, facts={"status": "LOST"})


def presence_event(fqcn: str, side: LinkPresence, now_ms: int) -> TailEvent:
    """The state that a side has come to."""
    text = f"{side.label} {side.place} connected" if side.connected else side.absence
    facts = {"state": side.state, "instance": side.instance, "epoch": str(side.epoch)}
    return TailEvent(time_ms=now_ms, kind=side.role, fqcn=fqcn, text=text, facts=facts)


def _payload(facts: dict[str, str], nbytes: int) -> str:
    return f"{humanize.size(nbytes)}, payload in blobs" if "blobs" in facts else humanize.size(nbytes)


_SHOWN = (b"v", b"topic", b"task_id", b"task_name", b"rc", b"epoch", b"session", b"sender", b"reason", b"blobs")
