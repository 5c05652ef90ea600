"""How long jobs are kept in Redis, and how large they may be."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["JobRetentionPolicy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRetentionPolicy:
    """Limits of the job store; seconds unless the name says otherwise."""

    #: A job after its end; an unfinished one after the server's last beat.
    job_retention: float = 604_800.0
    #: The chunks of a file that is being stored, after the last sign of progress.
    upload_keep: float = 3_600.0
    #: A message to a server that is away.
    event_retention: float = 86_400.0
    #: Lines of one job's log; the oldest go first.
    log_lines: int = 10_000
    #: Bytes of one line; the rest is cut.
    line_bytes: int = 8_192
    #: Bytes of an archive, and of a result.
    file_bytes: int = 4 << 30

    @property
    def retention_ms(self) -> int:
        return max(1, round(self.job_retention * 1000))

    @property
    def upload_ms(self) -> int:
        return max(1, round(self.upload_keep * 1000))

    @property
    def event_ms(self) -> int:
        return max(1, round(self.event_retention * 1000))
