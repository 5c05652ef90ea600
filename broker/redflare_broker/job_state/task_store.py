"""The tasks of a job as its server stores them: for the server that follows one that dies, and for people meanwhile.

Each task has a *record*, a hash with its client tasks. A controller that can go on from a *checkpoint* finds its state
there, and the tasks since then: the open ones, and those that have ended, each with the results that came in. A
checkpoint drops what it contains. Payloads that the server owns are listed, so none is left behind by a server that
died: their prefix is written down before their chunks are.

Every step is one script that is safe to run twice, and refuses a server that was replaced.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import orjson

from redflare_broker.config.retention import RetentionPolicy
from redflare_broker.errors import RedflareError, Unavailable
from redflare_broker.keys import JobKeys
from redflare_broker.payload.encoded_payload import EncodedPayload
from redflare_broker.payload.payload_store import payloads_of
from redflare_broker.scripts.job_scripts import (
    APPEND,
    CHECKPOINT,
    FINISH,
    NOTE_CLIENT_TASK,
    OWN_PAYLOADS,
    SCHEDULE,
    job_values,
)
from redflare_broker.scripts.lease import Lease
from redflare_broker.scripts.script import ScriptReply, run_scripts
from redflare_broker.transport.connection import Connection
from redflare_broker.transport.replies import Arg, RedisReply, require
from redflare_broker.transport.server import Server
from redflare_broker.wire.task_entry import BlobRef

from .members import check
from .task_record import (
    STANDING,
    ClientTaskRecord,
    TaskRecord,
    blob_of,
    fields_of,
    payload_fields,
    payload_from,
    read_task,
)

__all__ = ["STANDING", "ClientTaskRecord", "JobTaskStore", "OwnedBlob", "Recovered", "TaskRecord"]

_FREE: Final = b"free"
#: Entries of a history in one step.
_ENTRIES: Final = 1000
#: Key of a checkpoint's meta: how many entries of the history the state goes with.
_HISTORY: Final = "history"


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnedBlob:
    """A payload that the server owns."""

    prefix: str
    chunks: int
    #: The run that noted it.
    run: str = ""
    #: No record needs it any more.
    free: bool = False

    @property
    def ref(self) -> BlobRef:
        """Names its chunks, to renew or remove them; its sizes are not known."""
        return BlobRef(prefix=self.prefix, chunk=1, sizes=(self.chunks,))


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """The state and tasks of previous runs, since the last checkpoint."""

    #: Number of the last checkpoint; 0 without one.
    checkpoint: int = 0
    #: Meta and payload of the controller's state at that checkpoint; None without one.
    state: tuple[dict[str, Any], EncodedPayload] | None = None
    #: What the controller had appended by then.
    history: tuple[Any, ...] = ()
    #: In the order they were scheduled; those that have ended since the checkpoint are among them.
    tasks: tuple[TaskRecord, ...] = ()

    def prefixes(self) -> set[str]:
        """Prefixes of the payloads that these records need."""
        payloads = [self.state[1]] if self.state else []
        for task in self.tasks:
            found = (task.data, *(client.result for client in task.client_tasks))
            payloads += [payload for payload in found if payload]
        return {payload.blob.prefix for payload in payloads if payload.blob}


class JobTaskStore:
    """Reads and writes the task records of one job. Thread-safe.

    Args:
        server: the federation's Redis.
        keys: of the job.
        lease: the server's; ``Members.begin`` must have been called for it.
        policy: how long keys live.
        resume: keep what a successor needs to go on. Without, ended tasks expire after a while, results are not kept,
            and of a task that is sent again and again only the open client tasks are.
        stop: asked while Redis is away; True ends the attempts of a step, which then raises Unavailable.
    """

    def __init__(
        self,
        server: Server,
        keys: JobKeys,
        lease: Lease,
        policy: RetentionPolicy,
        *,
        resume: bool = False,
        stop: Callable[[], bool] | None = None,
    ) -> None:
        self.keys = keys
        self.lease = lease
        self.resume = resume
        self._server = server
        self._stop = stop
        self._values = job_values(keys, policy) | lease.args | {"resume": int(resume)}
        self._retention_ms = policy.retention_ms
        self._needed: set[str] | None = None

    # -- after a start -------------------------------------------------------------------------------------------------

    def recover(self) -> Recovered:
        """Read what the runs before this one have left; empty for a new job.

        Raises:
            DecodeError: a record is not one of ours.
            Unavailable: ``stop`` ended the attempts.
        """
        found = self._server.run(self.keys.job, self._recover, stop=self._stop)
        self._needed = found.prefixes()
        return found

    def _recover(self, connection: Connection) -> Recovered:
        job, standing, ended = (
            require(reply, connection.node)
            for reply in connection.pipeline(
                [
                    ("HGETALL", self.keys.job),
                    ("ZRANGE", self.keys.standing, 0, -1),
                    ("ZRANGE", self.keys.ended, 0, -1),
                ]
            )
        )
        known = _hash(job)
        roots = [root.decode() for root in (*_list(standing), *_list(ended)) if isinstance(root, bytes)]
        replies = connection.pipeline([("HGETALL", self.keys.task(root)) for root in roots]) if roots else []
        records = [_hash(require(reply, connection.node)) for reply in replies]
        tasks = [
            read_task(self.keys.task(root), root, fields) for root, fields in zip(roots, records, strict=True) if fields
        ]
        state = payload_from(self.keys.job, known, "state_data")
        meta = orjson.loads(known.get(b"state", b"{}"))
        return Recovered(
            checkpoint=int(known.get(b"checkpoint", b"0")),
            state=(meta, state) if state else None,
            history=tuple(self._history(connection, meta.pop(_HISTORY, 0))),
            tasks=tuple(sorted(tasks, key=lambda task: task.order)),
        )

    def _history(self, connection: Connection, length: int) -> Iterator[Any]:
        for first in range(0, length, _ENTRIES):
            numbers = range(first, min(first + _ENTRIES, length))
            for entry in _list(connection.call("HMGET", self.keys.history, *numbers)):
                if not isinstance(entry, bytes):
                    return
                yield orjson.loads(entry)

    def orphans(self) -> list[OwnedBlob]:
        """List payloads of previous runs that no record needs, and all that a checkpoint freed: ``discard`` them."""
        if self._needed is None:
            self.recover()
        needed = self._needed or set()
        return [
            blob for blob in self.owned() if blob.free or (blob.run != self.lease.run and blob.prefix not in needed)
        ]

    # -- tasks ---------------------------------------------------------------------------------------------------------

    def schedule(self, task: TaskRecord) -> None:
        """Write a task's record, before a client can see the task; for one that has a record already, write it anew.

        Its client tasks are written as well: a record can be written again when Redis has lost the job. Other
        client tasks in the hash stay as they are.

        Raises:
            Fenced: a newer server is there.
            JobLost: Redis has lost the job.
            JobEnded: the job is over.
            Unavailable: ``stop`` ended the attempts; the step is safe to repeat.
        """
        self._run([self._schedule(task, again=True), *self._notes(task)])

    def schedule_commands(self, task: TaskRecord) -> list[list[Arg]]:
        """Make the commands of ``schedule``, for ``Request.reply(with_commands=...)``.

        They may come late: if the task has ended by then, it stays so.
        """
        return [self._schedule(task, again=False), *self._notes(task)]

    def _notes(self, task: TaskRecord) -> list[list[Arg]]:
        return [self.note_command(task.root_id, client) for client in task.client_tasks]

    def _schedule(self, task: TaskRecord, *, again: bool) -> list[Arg]:
        prefix, chunks = blob_of(task.data if self.resume else None)
        return SCHEDULE.command(
            self._values,
            fields_of(task, data=self.resume),
            task=self.keys.task(task.root_id),
            root_id=task.root_id,
            order=task.order,
            data_prefix=prefix,
            chunks=chunks,
            again=int(again),
        )

    def note_command(self, root_id: str, client_task: ClientTaskRecord) -> list[Arg]:
        """Note a client task, as sent or with its result; a command for ``Request.reply(with_commands=...)``.

        The first result counts; the server owns its payload from then on.
        """
        result = client_task.result if self.resume else None
        prefix, chunks = blob_of(result)
        return NOTE_CLIENT_TASK.command(
            self._values,
            payload_fields(f"result:{client_task.id}", result),
            task=self.keys.task(root_id),
            client_task_id=client_task.id,
            record=client_task.to_json(),
            result_prefix=prefix,
            chunks=chunks,
        )

    def note(self, root_id: str, client_tasks: Iterable[ClientTaskRecord]) -> None:
        """Write client tasks, sent or received, at once.

        Raises:
            Fenced, JobLost, JobEnded, Unavailable: as ``schedule``.
        """
        self._run([self.note_command(root_id, client_task) for client_task in client_tasks])

    def finish(self, root_id: str, status: str, at: float, *, unwritten: TaskRecord | None = None) -> None:
        """End a task. Its data are dropped from the record; a payload of them is the caller's to ``discard``.

        Args:
            at: when, in seconds of the server's clock.
            unwritten: the task, if its record may not have been written yet.

        Raises:
            Fenced, JobLost, JobEnded, Unavailable: as ``schedule``.
        """
        written = [] if unwritten is None else [self._schedule(replace(unwritten, data=None), again=False)]
        task, ended_ms = self.keys.task(root_id), round(at * 1000)
        finish = FINISH.command(self._values, task=task, root_id=root_id, status=status, ended_ms=ended_ms)
        self._run([*written, finish])

    def append(self, first: int, entries: Sequence[bytes]) -> bool:
        """Append JSON to the history, behind its ``first`` entries; False: Redis has lost these.

        What is behind the entries that the last checkpoint counted belongs to the next checkpoint; if that is never
        written it does not count, and is replaced.

        Raises:
            Fenced, JobLost, JobEnded, Unavailable: as ``schedule``.
        """
        for offset in range(0, len(entries), _ENTRIES):
            some = entries[offset : offset + _ENTRIES]
            [reply] = self._run([APPEND.command(self._values, some, **{"from": first + offset})])
            if not reply.number():
                return False
        return True

    def checkpoint(self, meta: Mapping[str, Any], state: EncodedPayload, history: int = 0) -> list[OwnedBlob]:
        """Keep a controller's state, and drop what it contains: ended tasks, and results of open ones.

        All or nothing. A payload of the state is noted as owned here too, but ``own`` it before its chunks are written.

        Args:
            history: how many entries of the history the state goes with.

        Returns:
            The payloads that no record needs any more: ``discard`` them.

        Raises:
            Fenced, JobLost, JobEnded, Unavailable: as ``schedule``.
        """
        meta = {**meta, _HISTORY: history} if history else dict(meta)
        fields = ["state", orjson.dumps(meta), *payload_fields("state_data", state)]
        prefix, chunks = blob_of(state)
        command = CHECKPOINT.command(
            self._values, fields, checkpoint_id=uuid.uuid4().hex, state_prefix=prefix, chunks=chunks
        )
        [reply] = self._run([command])
        return [_owned(*reply.rest[index : index + 2]) for index in range(1, len(reply.rest), 2)]

    # -- payloads ------------------------------------------------------------------------------------------------------

    def own(self, prefix: str, chunks: int) -> None:
        """Note a payload as the server's, before its chunks are written.

        Raises:
            Fenced, JobLost, JobEnded, Unavailable: as ``schedule``.
        """
        self._run([OWN_PAYLOADS.command(self._values, [prefix, max(1, chunks)])])

    def disown(self, *prefixes: str) -> None:
        """Note that payloads are gone, or are somebody else's now; also when the job is over.

        Raises:
            Fenced, JobLost, Unavailable: as ``schedule``.
        """
        if prefixes:
            self._run([OWN_PAYLOADS.command(self._values, [word for prefix in prefixes for word in (prefix, 0)])])

    def discard(self, payloads: Iterable[OwnedBlob | BlobRef]) -> None:
        """Delete payloads, and disown them then; of a job that is over, all that is still ``owned``.

        Raises:
            Fenced, JobLost, Unavailable: as ``schedule``.
        """
        gone, away = [], None
        for payload in payloads:
            ref = payload if isinstance(payload, BlobRef) else payload.ref
            try:
                payloads_of(self._server).remove(ref, stop=self._stop)
            except Unavailable as error:
                # others may be on other nodes
                away = error
            else:
                gone.append(payload.prefix)
        self.disown(*gone)
        if away is not None:
            raise away

    def owned(self) -> list[OwnedBlob]:
        """List all payloads that are noted as the server's, those of previous runs too."""
        found = self._server.run(
            self.keys.blobs, lambda connection: connection.call("HGETALL", self.keys.blobs), stop=self._stop
        )
        return [_owned(prefix, value) for prefix, value in _hash(found).items()]

    def renew(self) -> None:
        """Renew every payload of the server; call it a few times in each retention time."""
        for blob in self.owned():
            if not blob.free:
                payloads_of(self._server).renew(blob.ref, self._retention_ms, stop=self._stop)

    # -- steps ---------------------------------------------------------------------------------------------------------

    def _run(self, commands: list[list[Arg]]) -> list[ScriptReply]:
        def run(connection: Connection) -> list[ScriptReply]:
            return [check(reply, self.keys) for reply in run_scripts(connection, commands)]

        return self._server.run(self.keys.job, run, stop=self._stop)

    def __repr__(self) -> str:
        return f"<JobTaskStore of {self.keys.fqcn} run {self.lease.run}>"


def _owned(prefix: RedisReply, value: RedisReply) -> OwnedBlob:
    parts = value.split() if isinstance(value, bytes) else []
    if not isinstance(prefix, bytes) or len(parts) < 2 or not parts[0].isdigit():
        raise RedflareError(f"{prefix!r:.200} is noted as a payload of {value!r:.200}, not of chunks and a run")
    return OwnedBlob(prefix=prefix.decode(), chunks=int(parts[0]), run=parts[1].decode(), free=parts[2:] == [_FREE])


def _list(reply: RedisReply) -> list[RedisReply]:
    return reply if isinstance(reply, list) else []


def _hash(reply: RedisReply) -> dict[bytes, bytes]:
    words = [word for word in _list(reply) if isinstance(word, bytes)]
    return dict(zip(words[::2], words[1::2], strict=True))
