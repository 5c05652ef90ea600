"""What a tail tells: events made from stream entries, ledgers, sides and messages. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from . import wording
from .defs import TOPIC_BYE, TOPIC_GET_TASK, TOPIC_HELLO, TOPIC_SUBMIT_RESULT
from .presence import Presence
from .story import TaskStory

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
            "time": wording.iso(self.time_ms),
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
    elif topic in (TOPIC_HELLO, TOPIC_BYE):
        text = f"{topic} of agent {facts.get('sender', '')}"
    else:
        text = f"an entry that is not ours: {len(fields)} fields, {wording.size(nbytes)}"
    time_ms = int(entry_id.partition("-")[0])
    facts["entry"] = entry_id
    return TailEvent(time_ms=time_ms, kind=kind, fqcn=fqcn, text=text, task_id=facts.get("task_id", ""), facts=facts)


def ledger_event(story: TaskStory) -> TailEvent:
    """The state that a task has come to."""
    tries = f", attempt {story.attempt}" if story.attempt > 1 else ""
    said = {
        "NEW": f"assigned by CJ {story.session}",
        "FETCHED": f"fetched by agent {story.agent}{tries}",
        "SUBMITTED": f"submitted by agent {story.agent}, rc {story.rc}",
    }.get(story.status, story.reason)
    return TailEvent(
        time_ms=story.since or story.now,
        kind="ledger",
        fqcn=story.fqcn,
        text=f"{story.status}: {said}" if said else story.status,
        task_id=story.task_id,
        facts={"status": story.status, "attempt": str(story.attempt), "rc": story.rc, "reason": story.reason},
    )


def lost_event(fqcn: str, task_id: str, now_ms: int) -> TailEvent:
    """The ledger of an open task is not there any more."""
    text = "LOST: its ledger is gone, Redis has lost its data or somebody has deleted it"
    return TailEvent(time_ms=now_ms, kind="ledger", fqcn=fqcn, text=text, task_id=task_id, facts={"status": "LOST"})


def presence_event(fqcn: str, side: Presence, now_ms: int) -> TailEvent:
    """The state that a side has come to."""
    text = f"{side.label} {side.place} connected" if side.connected else side.absence
    facts = {"state": side.state, "instance": side.instance, "epoch": str(side.epoch)}
    return TailEvent(time_ms=now_ms, kind=side.role, fqcn=fqcn, text=text, facts=facts)


def _payload(facts: dict[str, str], nbytes: int) -> str:
    return f"{wording.size(nbytes)}, payload in blobs" if "blobs" in facts else wording.size(nbytes)


_SHOWN = (b"v", b"topic", b"task_id", b"task_name", b"rc", b"epoch", b"session", b"sender", b"reason", b"blobs")
