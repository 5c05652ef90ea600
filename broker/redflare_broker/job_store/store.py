"""The job store of a server: its jobs, how far each has come, its archive, its log and its result.

Operators write a job into Redis and do not talk to the server, which may be away: an event in its inbox wakes it
(channel ``STORE_CHANNEL``, topic ``STORE_TOPIC``, meta ``job_id`` and ``change``), and at its start it reads the list.
Every change of a job's status is compare-and-set, forward only, and kept in its history with time, reason and author.

A server moves a job to DISPATCHED before it touches a site: an abort that comes earlier ends the job at once, one that
comes later lets nothing but a FINISHED:* follow.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias, cast

import orjson

from redflare_broker.config.retention import JobRetentionPolicy
from redflare_broker.errors import BlobMissing, DecodeError, JobExists, JobUnfinished, ServerError
from redflare_broker.fqcn import FQCN, check_job_id
from redflare_broker.keys import Keys, StoreKeys
from redflare_broker.scripts.script import KNOWN, OK, OPEN, REFUSED, UNKNOWN
from redflare_broker.scripts.store_scripts import ABORT, ADVANCE, DELETE, LOG, RENEW, RESTORE, RESULT, SET_FIELD, SUBMIT
from redflare_broker.transport.replies import Arg
from redflare_broker.transport.server import Server

from . import job_files
from .job_files import Source
from .log_follower import JobLogFollower, parse_lines
from .record import (
    ABORTED,
    STATUSES,
    SUBMITTED,
    JobRecord,
    LogLine,
    StoredFile,
    check_after,
    check_status,
    record_fields,
)
from .steps import (
    STORE_CHANNEL,
    STORE_TOPIC,
    StoreSteps,
    clean,
    fingerprint,
    pack_meta,
    status_change,
    truncate,
    whoami,
)

__all__ = ["STORE_CHANNEL", "STORE_TOPIC", "JobRetentionPolicy", "JobStore", "whoami"]

# ``list`` is a method of the store
Records: TypeAlias = list[JobRecord]
Lines: TypeAlias = list[LogLine]
Entries: TypeAlias = list[tuple[bytes, list[bytes]]]

#: Lines that one script writes.
_LINES: Final = 256

_log = logging.getLogger(__name__)


def new_job_id() -> str:
    """Make up an id for a job; who knows it before it is submitted can submit again after an error."""
    return str(uuid.uuid4())


class JobStore:
    """The jobs of one server. Thread-safe; holds no connection and no thread.

    Args:
        server: the federation's Redis.
        keys: of the store, or of the federation: then that of the server whose cell is called "server".
        policy: how long things are kept, and how large they may be.
        stop: asked while Redis is away; True ends the attempts of a step, which then raises Unavailable. None: it is
            tried until the connection is closed. Every step is safe to repeat.

    Every method may raise Unavailable, and ServerError when Redis refuses for good; ConfigError for an id that is none.
    """

    def __init__(
        self,
        server: Server,
        keys: StoreKeys | Keys,
        policy: JobRetentionPolicy | None = None,
        *,
        stop: Callable[[], bool] | None = None,
    ) -> None:
        self.keys = keys.store() if isinstance(keys, Keys) else keys
        self.policy = policy or JobRetentionPolicy()
        self._server = server
        self._stop = stop
        self._steps = StoreSteps(server, self.keys, self.policy, stop)

    @classmethod
    def as_server_keeps_it(
        cls, server: Server, keys: StoreKeys | Keys, *, stop: Callable[[], bool] | None = None
    ) -> JobStore:
        """Return a store with the policy of its server, which that has published.

        It is the default one if the server has not yet, or if this user may not read it.

        Raises:
            Unavailable: of Redis.
            DecodeError: somebody else has written the policy.
        """
        store = cls(server, keys, stop=stop)
        try:
            found = store._steps.call(store.keys.policy, "GET", store.keys.policy)
        except ServerError as error:
            _log.debug("cannot read how long jobs are kept: %s", error)
            return store
        return cls(server, keys, JobRetentionPolicy.from_json(found), stop=stop) if isinstance(found, bytes) else store

    # -- operators -----------------------------------------------------------------------------------------------------

    def submit(
        self, meta: Mapping[str, Any], archive: Source, job_id: str | None = None, *, submitter: str | None = None
    ) -> str:
        """Store a job, and wake the server. Again with the same id, meta and archive changes nothing.

        Args:
            meta: content of ``meta.json``.
            archive: content or path of the zip; a file is read a few MB at a time.
            job_id: None: a new one.
            submitter: who submits it; None: user and host of this process.

        Returns:
            The job's id.

        Raises:
            JobExists: another job has this id.
            ConfigError: the file cannot be read.
            EncodeError: meta is not JSON, or too large.
            MessageTooLarge: the archive is larger than ``policy.file_bytes``.
        """
        job_id = new_job_id() if job_id is None else check_job_id(job_id)
        packed, by = pack_meta(meta), whoami() if submitter is None else clean(submitter)
        if known := self._steps.fingerprint(job_id):
            return self._same(job_id, known, fingerprint(packed, job_files.digest(archive)))
        file = self._steps.upload(f"{job_id}-archive", archive)
        digest = fingerprint(packed, file.sha256)
        fields: list[Arg] = ["name", clean(meta.get("name", "")), "meta", packed]
        fields += ["submitter", by, "fingerprint", digest, "submission", uuid.uuid4().hex]
        command = SUBMIT.command(
            self._steps.values(job_id),
            fields,
            archive_prefix=file.blob.prefix,
            chunks=file.blob.chunks,
            change=status_change(SUBMITTED, "", by),
            archive=file.to_json(),
        )
        reply = self._steps.run(command, (job_id, "submitted"))
        if reply.status == KNOWN:
            self._steps.remove(file)
            return self._same(job_id, reply.text(), digest)
        self._steps.check(reply, job_id, file)
        return job_id

    @staticmethod
    def _same(job_id: str, known: str, digest: str) -> str:
        if known != digest:
            raise JobExists(f"job {job_id} has another meta or archive: submit under another id, or without one")
        return job_id

    def request_abort(self, job_id: str, by: str, reason: str = "") -> JobRecord:
        """Request a job's end, and wake the server; the first request counts.

        A job that was not dispatched is over when this returns; one that is over already stays as it is.

        Returns:
            The record after it.

        Raises:
            JobUnknown: no such job.
        """
        by, reason = clean(by), clean(reason)
        change = status_change(ABORTED, reason, by)
        command = ABORT.command(self._steps.values(job_id), by=by, reason=reason, change=change)
        reply = self._steps.run(command, (job_id, "abort"))
        return self._steps.record(job_id, self._steps.check(reply, job_id).rest[0])

    def delete(self, job_id: str) -> None:
        """Delete a job that is over, with its archive, log and result, and tell the server; a missing one is no error.

        Raises:
            JobUnfinished: it is not over.
        """
        reply = self._steps.run(DELETE.command(self._steps.values(job_id)), (job_id, "deleted"))
        if reply.status == OPEN:
            raise JobUnfinished(f"job {job_id} is {reply.text()} and cannot be deleted: abort it and wait for its end")

    def deletions(self) -> dict[str, str]:
        """Return the ids of the jobs that were deleted, by submission; the oldest are forgotten."""
        members = cast("list[bytes]", self._steps.call(self.keys.deleted, "ZRANGE", self.keys.deleted, 0, -1))
        pairs = [member.decode().partition(" ") for member in members]
        return {submission: job_id for job_id, _, submission in pairs}

    # -- reading -------------------------------------------------------------------------------------------------------

    def get(self, job_id: str) -> JobRecord | None:
        """Read a job's record; None: no such job.

        Raises:
            DecodeError: somebody else has written into it.
        """
        key = self.keys.record(check_job_id(job_id))
        found = self._steps.call(key, "HGETALL", key)
        return self._steps.record(job_id, found) if found else None

    def list(self, statuses: Iterable[str] | None = None) -> Records:
        """List all jobs, or those of some statuses, oldest first; unreadable records are left out, with a warning."""
        wanted = {check_status(status).encode() for status in (STATUSES if statuses is None else statuses)}
        records = []
        for job_id, fields in self._steps.listed(wanted):
            try:
                records.append(self._steps.record(job_id, fields))
            except DecodeError as error:
                _log.warning("%s", error)
        return records

    # -- the server ----------------------------------------------------------------------------------------------------

    # The server names the ``submission`` that it has in hand: a step does nothing to another job of the same id.

    def restore(self, record: JobRecord) -> bool:
        """Write the record of a job that runs again, if Redis has lost it; False: another job has its id by now.

        Its archive and its log are gone.
        """
        values = self._steps.values(record.id, record.submission) | {"submitted": record.submitted}
        return self._steps.run(RESTORE.command(values, record_fields(record))).status == OK

    def advance(
        self,
        job_id: str,
        expected: str | Iterable[str],
        to: str,
        reason: str = "",
        by: str = "server",
        *,
        submission: str = "",
    ) -> JobRecord | None:
        """Move a job forward, if it has one of the expected statuses and ``to`` is later.

        Returns:
            The record after it. None: it is elsewhere, or its abort was asked for and ``to`` is not FINISHED:*, or it
            does not exist; ``get`` shows which.

        Raises:
            ConfigError: a status is none.
        """
        names = sorted(map(check_status, [expected] if isinstance(expected, str) else expected))
        reason = clean(reason)
        change = status_change(check_status(to), reason, clean(by))
        step: dict[str, Arg] = {"step": uuid.uuid4().hex, "status": to, "change": change, "reason": reason}
        reply = self._steps.run(ADVANCE.command(self._steps.values(job_id, submission) | step, names))
        return None if reply.status in (REFUSED, UNKNOWN) else self._steps.record(job_id, reply.rest[0])

    def set_site(
        self,
        job_id: str,
        site: str,
        status: str,
        *,
        exit_code: int | None = None,
        reason: str = "",
        how: str = "",
        agents: Mapping[str, str] | None = None,
        submission: str = "",
    ) -> bool:
        """Note the state of a job at a site; False: no such job.

        Args:
            status: in the caller's words.
            exit_code: of the job's process.
            how: an abort ended it: cooperative, terminated, killed.
            agents: by FQCN, what became of them then.
        """
        state: dict[str, object] = {"status": clean(status), "reason": clean(reason)}
        state |= {"exit_code": exit_code} if exit_code is not None else {}
        state |= {"how": clean(how)} if how else {}
        state |= {"agents": {clean(name): clean(what) for name, what in agents.items()}} if agents else {}
        return self._note(job_id, f"site:{FQCN.check(site)}", state, submission)

    def set_waiting(self, job_id: str, reason: str) -> bool:
        """Note why a job does not go on; the next change of its status takes it away. False: no such job."""
        return self._note(job_id, "waiting", {"reason": clean(reason)})

    def set_agents(self, job_id: str, agents: Mapping[str, Iterable[str]], submission: str) -> bool:
        """Note which agents a job's executors name, by app. False: no such job."""
        return self._note(job_id, "agents", {"apps": {app: list(names) for app, names in agents.items()}}, submission)

    def _note(self, job_id: str, field: str, value: Mapping[str, object], submission: str = "") -> bool:
        command = SET_FIELD.command(self._steps.values(job_id, submission), field=field, value=orjson.dumps(value))
        return self._steps.run(command).status == OK

    def renew(self, ids: Iterable[str]) -> set[str]:
        """Renew unfinished jobs, what is remembered of deleted ones, and the published policy; call it with each beat.

        Returns:
            The ids of those that are gone, or never were.
        """
        names = list(ids)
        replies = self._steps.run_all([RENEW.command(self._steps.values(job_id)) for job_id in names])
        self._steps.call(self.keys.deleted, "PEXPIRE", self.keys.deleted, self.policy.retention_ms)
        self.publish()
        return {job_id for job_id, reply in zip(names, replies, strict=True) if reply.status == UNKNOWN}

    def publish(self) -> None:
        """Write the policy for operators: what they do keeps jobs as long as the server does."""
        key = self.keys.policy
        self._steps.call(key, "SET", key, self.policy.to_json(), "PX", self.policy.retention_ms)

    # -- files ---------------------------------------------------------------------------------------------------------

    def fetch_archive(self, job_id: str, to: str | os.PathLike[str]) -> Path:
        """Read a job's archive into a file, which is replaced when all of it is there and right.

        Raises:
            JobUnknown: no such job.
            BlobMissing: a chunk is gone.
            DecodeError: it is not what was stored.
            OSError: the file cannot be written.
        """
        return self._download(self._file(job_id, "archive"), to)

    def read_archive(self, job_id: str) -> bytes:
        """Read a job's archive into memory.

        Raises:
            JobUnknown, BlobMissing, DecodeError: as ``fetch_archive``.
        """
        file = self._file(job_id, "archive")
        return job_files.load(self._server, file, most=self.policy.file_bytes, stop=self._stop)

    def put_result(self, job_id: str, source: Source, *, submission: str = "") -> StoredFile:
        """Store a job's result, a zip by content or path; it replaces the one before.

        Raises:
            JobUnknown: no such job; nothing is left.
            ConfigError: the file cannot be read.
            MessageTooLarge: it is larger than ``policy.file_bytes``.
        """
        if not self._steps.fingerprint(check_job_id(job_id)):
            raise self._steps.unknown(job_id)
        file = self._steps.upload(f"{job_id}-result", source)
        blob, result = file.blob, file.to_json()
        values = self._steps.values(job_id, submission)
        command = RESULT.command(values, result_prefix=blob.prefix, chunks=blob.chunks, result=result)
        self._steps.check(self._steps.run(command), job_id, file)
        return file

    def fetch_result(self, job_id: str, to: str | os.PathLike[str]) -> Path:
        """Read a job's result into a file, as ``fetch_archive``.

        Raises:
            JobUnknown, DecodeError, OSError: as ``fetch_archive``.
            BlobMissing: a chunk is gone, or it has no result (yet).
        """
        return self._download(self._file(job_id, "result"), to)

    def _download(self, file: StoredFile, to: str | os.PathLike[str]) -> Path:
        return job_files.download(self._server, file, to, most=self.policy.file_bytes, stop=self._stop)

    def _file(self, job_id: str, name: str) -> StoredFile:
        record = self.get(job_id)
        if record is None:
            raise self._steps.unknown(job_id)
        file = record.archive if name == "archive" else record.result
        if file is None:
            raise BlobMissing(f"job {job_id} ({record.status}) has no {name}")
        return file

    # -- the log -------------------------------------------------------------------------------------------------------

    def append_log(
        self, job_id: str, site: str, lines: Iterable[str], *, level: str = "", submission: str = ""
    ) -> bool:
        """Write lines into a job's log, each with the time of now; False: no such job."""
        values = self._steps.values(job_id, submission)
        texts = [truncate(line, self.policy.line_bytes) for line in lines]
        for first in range(0, len(texts), _LINES):
            batch, some = uuid.uuid4().hex, texts[first : first + _LINES]
            command = LOG.command(values, some, batch=batch, site=FQCN.check(site), level=clean(level))
            if self._steps.run(command).status == UNKNOWN:
                return False
        return True

    def read_log(self, job_id: str, after: str = "0-0", *, count: int | None = None) -> Lines:
        """Read the lines behind the one with the id ``after``, oldest first; [] when the job is gone.

        Args:
            count: at most so many.
        """
        key = self.keys.log(check_job_id(job_id))
        limit: list[Arg] = [] if count is None else ["COUNT", count]
        found = self._steps.call(key, "XREAD", *limit, "STREAMS", key, check_after(after))
        streams = cast("list[tuple[bytes, Entries]]", found or [])
        return [line for _, entries in streams for line in parse_lines(key, entries)]

    def follow(self, job_id: str, after: str = "0-0", *, block: float = 30.0) -> JobLogFollower:
        """Follow the lines behind ``after`` until the job is over; close it, or use it in a ``with``."""
        return JobLogFollower(self._server, self.keys, check_job_id(job_id), check_after(after), block=block)

    def __repr__(self) -> str:
        return f"<JobStore of {self.keys.fqcn} in {self._server.url}>"
