"""What the process of a job reports of its end, ``outcome.json`` in the folder of its run: read by its parent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Self

from .run_folder import OUTCOME_FILE, RunFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class JobReport:
    """What both kinds of processes report."""

    #: names the process
    run: str
    reason: str = ""
    #: It ended because its parent was gone, not because the job was over.
    parent_gone: bool = False
    #: Messages that it has refused, or could not deal with: how many, by kind.
    faults: Mapping[str, int] = field(default_factory=dict)

    def write(self, folder: RunFolder) -> None:
        """Write the file.

        Raises:
            OSError: it cannot be written.
        """
        folder.write(OUTCOME_FILE, asdict(self))

    @classmethod
    def find(cls, folder: RunFolder, run: str) -> Self | None:
        """Read the last report of the process of that run; None: it has made none, or it cannot be read."""
        data = folder.read(OUTCOME_FILE) or {}
        if data.get("run") != run:
            return None
        return cls(**{name: data[name] for name in cls.__dataclass_fields__ if name in data})


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerJobReport(JobReport):
    """Of a job's process at the server (SJ): written when the app was built, and once more at the end."""

    #: Whether a successor resumes the workflow; None: unknown, because the app was not built.
    resumes: bool | None = None
    #: One of ``job_outcome``; "": it has not come to its end.
    status: str = ""

    @classmethod
    def read(cls, folder: RunFolder, run: str) -> ServerJobReport:
        """Read the last report of the process of that run; an empty one when there is none."""
        return cls.find(folder, run) or cls(run=run)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientJobReport(JobReport):
    """Of a job's process at a site (CJ): written at its end."""

    exit_code: int = 0
