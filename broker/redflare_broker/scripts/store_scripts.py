"""Every change of the job store: one typed wrapper for each Lua script ``lua/store/*.lua``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from redflare_broker.config.job_retention import JobRetentionPolicy
from redflare_broker.keys import StoreKeys
from redflare_broker.transport.replies import Arg

from .script import command


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreScripts:
    """The commands of the store's steps; ``told`` is a JSON object, before whose fields the script puts ``at``."""

    keys: StoreKeys
    policy: JobRetentionPolicy

    def submit(self, job_id: str, blob: tuple[str, int], told: bytes, fields: Sequence[Arg]) -> list[Arg]:
        """``blob``: prefix and chunks of the archive; ``fields``: of the record, the archive's first."""
        keys = [*self._all(job_id), blob[0]]
        args: list[Arg] = [job_id, blob[1], told, self.policy.retention_ms, self.policy.log_lines, *fields]
        return command("store/submit", keys, args)

    def advance(self, job_id: str, step: str, expected: Sequence[str], to: str, told: bytes, reason: str) -> list[Arg]:
        """``step``: new for each, by which a repeated one is known."""
        p = self.policy
        args: list[Arg] = [step, to, told, reason, p.retention_ms, p.log_lines, *expected]
        return command("store/advance", self._all(job_id), args)

    def abort(self, job_id: str, by: str, reason: str, told: bytes) -> list[Arg]:
        p = self.policy
        return command("store/abort", self._all(job_id), [by, reason, told, p.retention_ms, p.log_lines])

    def note(self, job_id: str, name: str, told: bytes) -> list[Arg]:
        """``name``: of the field; "waiting" is not written any more once the job is over."""
        return command("store/note", [self.keys.record(job_id)], [name, told])

    def log(self, job_id: str, batch: str, site: str, level: str, lines: Sequence[bytes]) -> list[Arg]:
        """``batch``: new for each, by which a repeated one is known."""
        keys = [self.keys.record(job_id), self.keys.log(job_id)]
        return command("store/log", keys, [batch, site, level, self.policy.log_lines, *lines])

    def result(self, job_id: str, blob: tuple[str, int], file: bytes) -> list[Arg]:
        """``blob``: prefix and chunks of the result; ``file``: what the record says of it."""
        keys = [*self._all(job_id), blob[0]]
        return command("store/result", keys, [blob[1], file, self.policy.retention_ms])

    def renew(self, job_id: str) -> list[Arg]:
        return command("store/renew", self._all(job_id), [job_id, self.policy.retention_ms])

    def delete(self, job_id: str) -> list[Arg]:
        return command("store/delete", self._all(job_id), [job_id])

    def _all(self, job_id: str) -> list[str]:
        k = self.keys
        return [k.jobs, k.record(job_id), k.log(job_id)]
