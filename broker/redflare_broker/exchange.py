"""One exchange of a CJ with its agent: the task that goes out, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .codec import Encoded
from .entry import BlobRef, Entry


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How an exchange ended."""

    #: ACCEPTED: a result is here. REJECTED: the agent could not read the task, or its result could not be read.
    #: ABORTED: nobody will answer any more.
    status: str
    rc: str = ""
    meta: dict[str, Any] = field(default_factory=dict)
    data: Any = None
    reason: str = ""


@dataclass(slots=True, kw_only=True)
class Outgoing:
    """A task on its way to the agent."""

    task_id: str
    name: str
    encoded: Encoded
    blob_prefix: str
    blob: BlobRef | None = None
    entry: Entry | None = None
    #: The open task that this one replaces, as Redis told.
    expected: str = ""
    #: The entry in results that has, or that reports, a missing payload: why the task is sent once more.
    lost: str = ""

    def send_again(self, lost: str) -> None:
        """Forget what was written; the next assign writes it once more, in place of the entry ``lost``."""
        self.entry = None
        self.lost = lost
