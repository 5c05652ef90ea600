"""Every change of the job store: one typed wrapper for each Lua script ``lua/store/*.lua``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from redflare_broker.config.retention import JobRetentionPolicy
from redflare_broker.keys import StoreKeys
from redflare_broker.transport.replies import Arg

from .script import Script

_JOB: Final = "jobs record log"

SUBMIT: Final = Script(
    "store/submit", f"{_JOB} archive_prefix", "job_id chunks change retention_ms log_lines archive", rest="fields"
)
ADVANCE: Final = Script("store/advance", _JOB, "step status change reason retention_ms log_lines", rest="expected")
ABORT: Final = Script("store/abort", _JOB, "by reason change retention_ms log_lines")
NOTE: Final = Script("store/note", "record", "field value")
LOG: Final = Script("store/log", "record log", "batch site level log_lines", rest="lines")
RESULT: Final = Script("store/result", f"{_JOB} result_prefix", "chunks result retention_ms")
RENEW: Final = Script("store/renew", _JOB, "job_id retention_ms")
DELETE: Final = Script("store/delete", _JOB, "job_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreScripts:
    """The commands of the store's steps.

    ``change`` and ``value`` are JSON objects, before whose fields the script puts ``at``; ``blob`` is prefix and number
    of chunks of a file.
    """

    keys: StoreKeys
    policy: JobRetentionPolicy

    def submit(
        self, job_id: str, blob: tuple[str, int], change: bytes, archive: bytes, fields: Sequence[Arg] = ()
    ) -> list[Arg]:
        """Store a job with its archive; ``fields``: further ones of its record."""
        return SUBMIT.command(
            self._of(job_id), fields, archive_prefix=blob[0], chunks=blob[1], change=change, archive=archive
        )

    def advance(
        self, job_id: str, step: str, expected: Sequence[str], status: str, change: bytes, reason: str
    ) -> list[Arg]:
        """Move a job from one of the expected statuses; ``step``: new for each, by which a repeated one is known."""
        return ADVANCE.command(self._of(job_id), expected, step=step, status=status, change=change, reason=reason)

    def abort(self, job_id: str, by: str, reason: str, change: bytes) -> list[Arg]:
        return ABORT.command(self._of(job_id), by=by, reason=reason, change=change)

    def note(self, job_id: str, field: str, value: bytes) -> list[Arg]:
        """Write a field of the record; ``waiting`` is not written any more once the job is over."""
        return NOTE.command(self._of(job_id), field=field, value=value)

    def log(self, job_id: str, batch: str, site: str, level: str, lines: Sequence[bytes]) -> list[Arg]:
        """Write lines; ``batch``: new for each, by which a repeated one is known."""
        return LOG.command(self._of(job_id), lines, batch=batch, site=site, level=level)

    def result(self, job_id: str, blob: tuple[str, int], result: bytes) -> list[Arg]:
        """Give a job its result; ``result``: JSON of where it is."""
        return RESULT.command(self._of(job_id), result_prefix=blob[0], chunks=blob[1], result=result)

    def renew(self, job_id: str) -> list[Arg]:
        return RENEW.command(self._of(job_id))

    def delete(self, job_id: str) -> list[Arg]:
        return DELETE.command(self._of(job_id))

    def _of(self, job_id: str) -> dict[str, Arg]:
        k, p = self.keys, self.policy
        return {
            "jobs": k.jobs,
            "record": k.record(job_id),
            "log": k.log(job_id),
            "job_id": job_id,
            "retention_ms": p.retention_ms,
            "log_lines": p.log_lines,
        }
