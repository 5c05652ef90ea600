"""``Audit``: takes what happened; this one keeps nothing, ``AuditLog`` writes it down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .entry import Action, AuditHead


def about(job: str, submission: str = "") -> dict[str, str]:
    """Return the subject of an entry about a job; ``submission``: which of those of its id, "": that is not known."""
    return {"job": job, "submission": submission} if submission else {"job": job}


class Audit:
    """Takes entries, from any thread; none of its methods raises because an entry cannot be kept."""

    def record(
        self, action: Action, subject: Mapping[str, str], *, by: str | None = None, reason: str = "", **facts: Any
    ) -> None:
        """Keep an entry.

        Args:
            action: what happens, or is about to.
            subject: what it is about: ``{"job": ..., "submission": ...}``, ``{"site": ...}``.
            by: who has asked for it, as a message or a record says; None: this process decides.
            reason: for people.
            facts: whatever else is to be known, as JSON has it.
        """

    def obstacle(self) -> str:
        """Why entries cannot be kept now, after another attempt; "": they can. Then no new job is to be taken."""
        return ""

    def recorded(self, action: Action) -> set[str]:
        """Return the submissions of jobs that entries of an action are about, also those of earlier processes."""
        return set()

    @property
    def head(self) -> AuditHead | None:
        """The last entry that was kept; None: there is none."""
        return None
