"""Every change of a job's state: one typed wrapper for each Lua script ``lua/job/*.lua``.

The server's steps name the lease of its cell and its run: an older cell is answered FENCED, one that Redis has lost
LOST, one whose job is over ENDED with the reason. A client's steps name the lease of its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from redflare_broker.config.retention import RetentionPolicy
from redflare_broker.keys import JobKeys
from redflare_broker.transport.replies import Arg

from .lease import Lease
from .script import Script

#: Status of a job that goes on; any other is final.
RUNNING: Final = "RUNNING"
#: Reply of ``begin``: the state of the run before this one is there. NEW otherwise.
RESUMED: Final = "RESUMED"

_JOB: Final = "cell job clients standing ended blobs task_prefix"

JOIN: Final = Script(
    "job/join",
    "job clients",
    "name instance epoch record retention_ms beat beat_ttl_ms",
    optional_key="heartbeat",
)
BEAT: Final = Script(
    "job/beat", "job clients heartbeat server_heartbeat", "name instance epoch beat beat_ttl_ms retention_ms"
)
LEAVE: Final = Script("job/leave", "job clients heartbeat", "name instance epoch")
BEGIN: Final = Script("job/begin", _JOB, "instance epoch run resume retention_ms")
LIST_MEMBERS: Final = Script("job/list_members", f"{_JOB} heartbeat_prefix", "instance epoch run retention_ms")
END: Final = Script("job/end", _JOB, "instance epoch run status reason settled_ms")
SCHEDULE: Final = Script(
    "job/schedule",
    "cell job task standing ended blobs",
    "instance epoch run root_id order data_prefix chunks retention_ms again",
    rest="fields",
)
NOTE: Final = Script(
    "job/note",
    "cell job task blobs",
    "instance epoch run client_task_id record resume result_prefix chunks retention_ms",
    rest="fields",
)
FINISH: Final = Script(
    "job/finish",
    "cell job task standing ended",
    "instance epoch run root_id status ended_ms resume retention_ms settled_ms",
)
CHECKPOINT: Final = Script(
    "job/checkpoint",
    _JOB,
    "instance epoch run checkpoint_id state_prefix chunks retention_ms settled_ms",
    rest="fields",
)
OWN: Final = Script("job/own", "cell job blobs", "instance epoch run retention_ms", rest="payloads")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobScripts:
    """The commands of one job's steps; run them with ``script.run_command``, or in a pipeline.

    ``blob`` is a payload's prefix and number of chunks; ("", 0) when it has none, or is inline.
    """

    keys: JobKeys
    policy: RetentionPolicy
    _common: dict[str, Arg] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        k, p = self.keys, self.policy
        common: dict[str, Arg] = {
            "cell": k.cell,
            "job": k.job,
            "clients": k.clients,
            "standing": k.standing,
            "ended": k.ended,
            "blobs": k.blobs,
            "task_prefix": k.task(""),
            "heartbeat_prefix": k.heartbeat(""),
            "server_heartbeat": k.server_heartbeat,
            "retention_ms": p.retention_ms,
            "settled_ms": p.settled_ms,
        }
        object.__setattr__(self, "_common", common)

    # -- the client's --------------------------------------------------------------------------------------------------

    def join(self, lease: Lease, record: bytes, beat: bytes = b"", ttl_ms: int = 0) -> list[Arg]:
        """Make the client a member.

        Args:
            record: a JSON object with at least instance and epoch; the script puts joined and left before them.
            beat: a first heartbeat, in the same step.
        """
        heartbeat = {"heartbeat": self.keys.heartbeat(lease.name)} if beat else {}
        return JOIN.command(self._common, **lease.args, record=record, beat=beat, beat_ttl_ms=ttl_ms, **heartbeat)

    def beat(self, lease: Lease, beat: bytes, ttl_ms: int) -> list[Arg]:
        heartbeat = self.keys.heartbeat(lease.name)
        return BEAT.command(self._common, heartbeat=heartbeat, **lease.args, beat=beat, beat_ttl_ms=ttl_ms)

    def leave(self, lease: Lease) -> list[Arg]:
        return LEAVE.command(self._common, heartbeat=self.keys.heartbeat(lease.name), **lease.args)

    # -- the server's --------------------------------------------------------------------------------------------------

    def begin(self, lease: Lease, *, resume: bool) -> list[Arg]:
        return BEGIN.command(self._common, **lease.args, resume=int(resume))

    def list_members(self, lease: Lease) -> list[Arg]:
        return LIST_MEMBERS.command(self._common, **lease.args)

    def end(self, lease: Lease, status: str, reason: str) -> list[Arg]:
        return END.command(self._common, **lease.args, status=status, reason=reason)

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
        """Write a task's record.

        Args:
            blob: of its data.
            fields: of the record.
            again: a task that has ended is open again.
        """
        return SCHEDULE.command(
            self._common,
            fields,
            task=self.keys.task(root_id),
            **lease.args,
            root_id=root_id,
            order=order,
            data_prefix=blob[0],
            chunks=blob[1],
            again=int(again),
        )

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
        """Write one client task into its task's record; ``blob`` and ``fields``: of its result."""
        return NOTE.command(
            self._common,
            fields,
            task=self.keys.task(root_id),
            **lease.args,
            client_task_id=client_task_id,
            record=record,
            resume=int(resume),
            result_prefix=blob[0],
            chunks=blob[1],
        )

    def finish(self, lease: Lease, root_id: str, status: str, ended_ms: int, *, resume: bool) -> list[Arg]:
        return FINISH.command(
            self._common,
            task=self.keys.task(root_id),
            **lease.args,
            root_id=root_id,
            status=status,
            ended_ms=ended_ms,
            resume=int(resume),
        )

    def checkpoint(self, lease: Lease, checkpoint_id: str, blob: tuple[str, int], fields: Sequence[Arg]) -> list[Arg]:
        """Keep a state; ``checkpoint_id``: new for each; ``fields``: of the state."""
        return CHECKPOINT.command(
            self._common,
            fields,
            **lease.args,
            checkpoint_id=checkpoint_id,
            state_prefix=blob[0],
            chunks=blob[1],
        )

    def own(self, lease: Lease, blobs: Sequence[tuple[str, int]]) -> list[Arg]:
        """Note payloads as the server's; with 0 chunks, as no longer its."""
        return OWN.command(self._common, [item for blob in blobs for item in blob], **lease.args)
