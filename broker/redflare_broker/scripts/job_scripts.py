"""Every change of a job's state: one typed wrapper for each Lua script ``lua/job/*.lua``.

The server's steps name its cell's instance and epoch, and its run: an older cell is answered FENCED, one that Redis has
forgotten LOST, one whose job is over ENDED with the reason. A client's steps name its instance and epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from redflare_broker.config.retention import RetentionPolicy
from redflare_broker.keys import JobKeys
from redflare_broker.transport.replies import Arg

from .lease import Lease
from .script import command

#: Status of a job that goes on; any other is final.
RUNNING: Final = "RUNNING"
#: What ``begin`` found.
NEW: Final = "NEW"
RESUMED: Final = "RESUMED"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobScripts:
    """The commands of one job's steps; run them with ``script.run_command``, or in a pipeline."""

    keys: JobKeys
    policy: RetentionPolicy

    # -- the client's --------------------------------------------------------------------------------------------------

    def join(self, lease: Lease, record: bytes, beat: bytes = b"", ttl_ms: int = 0) -> list[Arg]:
        """``record``: a JSON object with at least instance and epoch; the script puts joined and left before them.

        ``beat``: a first heartbeat, in the same step.
        """
        args: list[Arg] = [lease.name, lease.instance, lease.epoch, record, self.policy.retention_ms]
        keys = [self.keys.job, self.keys.clients]
        if beat:
            keys.append(self.keys.heartbeat(lease.name))
            args += [beat, ttl_ms]
        return command("job/join", keys, args)

    def beat(self, lease: Lease, beat: bytes, ttl_ms: int) -> list[Arg]:
        k = self.keys
        keys = [k.job, k.clients, k.heartbeat(lease.name), k.server_heartbeat]
        return command(
            "job/beat", keys, [lease.name, lease.instance, lease.epoch, beat, ttl_ms, self.policy.retention_ms]
        )

    def leave(self, lease: Lease) -> list[Arg]:
        k = self.keys
        return command(
            "job/leave", [k.job, k.clients, k.heartbeat(lease.name)], [lease.name, lease.instance, lease.epoch]
        )

    # -- the server's --------------------------------------------------------------------------------------------------

    def begin(self, lease: Lease, *, resume: bool) -> list[Arg]:
        return command("job/begin", self._all(), [*_claim(lease), int(resume), self.policy.retention_ms])

    def roll_call(self, lease: Lease) -> list[Arg]:
        keys = [*self._all(), self.keys.heartbeat("")]
        return command("job/roll", keys, [*_claim(lease), self.policy.retention_ms])

    def end(self, lease: Lease, status: str, reason: str) -> list[Arg]:
        return command("job/end", self._all(), [*_claim(lease), status, reason, self.policy.settled_ms])

    def schedule(
        self,
        lease: Lease,
        root_id: str,
        order: int,
        blob: tuple[str, int],
        fields: Sequence[Arg],
        *,
        again: bool = True,
    ) -> list[Arg]:
        """``blob``: prefix and chunks of the data, ("", 0) when it is inline; ``fields``: of the ledger.

        With ``again`` a task that has ended stands again.
        """
        k = self.keys
        args = [*_claim(lease), root_id, order, *blob, self.policy.retention_ms, int(again), *fields]
        return command("job/schedule", [k.cell, k.job, k.task(root_id), k.standing, k.ended, k.blobs], args)

    def note(
        self,
        lease: Lease,
        root_id: str,
        client_task_id: str,
        record: bytes,
        *,
        resume: bool,
        blob: tuple[str, int] = ("", 0),
        fields: Sequence[Arg] = (),
    ) -> list[Arg]:
        """Write one client task into its task's ledger; ``blob`` and ``fields``: of its result."""
        k = self.keys
        args = [*_claim(lease), client_task_id, record, int(resume), *blob, self.policy.retention_ms, *fields]
        return command("job/note", [k.cell, k.job, k.task(root_id), k.blobs], args)

    def finish(self, lease: Lease, root_id: str, status: str, ended_ms: int, *, resume: bool) -> list[Arg]:
        k, p = self.keys, self.policy
        args = [*_claim(lease), root_id, status, ended_ms, int(resume), p.retention_ms, p.settled_ms]
        return command("job/finish", [k.cell, k.job, k.task(root_id), k.standing, k.ended], args)

    def checkpoint(self, lease: Lease, checkpoint_id: str, blob: tuple[str, int], fields: Sequence[Arg]) -> list[Arg]:
        """``checkpoint_id``: new for each; ``fields``: of the state."""
        p = self.policy
        args = [*_claim(lease), checkpoint_id, *blob, p.retention_ms, p.settled_ms, *fields]
        return command("job/checkpoint", self._all(), args)

    def own(self, lease: Lease, blobs: Sequence[tuple[str, int]]) -> list[Arg]:
        """Note payloads as the server's; with 0 chunks, as no longer its."""
        k = self.keys
        pairs = [item for blob in blobs for item in blob]
        return command("job/own", [k.cell, k.job, k.blobs], [*_claim(lease), self.policy.retention_ms, *pairs])

    def _all(self) -> list[str]:
        """Keys of the steps that concern the whole job; the last is the prefix of the ledgers."""
        k = self.keys
        return [k.cell, k.job, k.clients, k.standing, k.ended, k.blobs, k.task("")]


def _claim(lease: Lease) -> list[Arg]:
    return [lease.instance, lease.epoch, lease.run]
