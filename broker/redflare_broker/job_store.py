"""The job store of a server: what jobs there are, how far each has come, its archive, its log and its result.

Operators write a job into Redis and do not talk to the server, which may be away: an event in its inbox wakes it
(channel ``STORE_CHANNEL``, topic ``STORE_TOPIC``, meta ``job_id`` and ``change``), and at its start it reads the list.
Every change of a job's status is compare-and-set, forward only, and stands in its history with time, reason and who.

A server moves a job to DISPATCHED before it touches a site: an abort that comes earlier ends the job at once, one that
comes later lets nothing but a FINISHED:* follow.
"""

from __future__ import annotations

import getpass
import hashlib
import logging
import os
import socket
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, cast

import orjson

from . import blobs, job_files
from .connection import Server
from .envelope import EVENT, Envelope
from .errors import (
    BlobMissing,
    DecodeError,
    EncodeError,
    JobExists,
    JobUnfinished,
    JobUnknown,
    RedflareError,
)
from .fqcn import FQCN
from .job_files import Source
from .job_log import JobLogFollower, parse_lines
from .job_record import (
    ABORTED,
    STATUSES,
    SUBMITTED,
    JobRecord,
    LogLine,
    StoredFile,
    check_job_id,
    check_status,
    read_record,
)
from .keys import Keys, StoreKeys
from .lane import Lane
from .limits import CodecLimits
from .replies import Arg, Reply, ReplyError, require
from .scripts import Answer, answer, command, retried
from .store_scripts import BLOB_MISSING, KNOWN, OK, OPEN, REFUSED, UNKNOWN, StorePolicy, StoreScripts

__all__ = ["STORE_CHANNEL", "STORE_TOPIC", "JobStore", "StorePolicy", "whoami"]

#: Where and how the server's cell hears of changes.
STORE_CHANNEL: Final = "server"
STORE_TOPIC: Final = "jobs_changed"

#: Sender of the events; nobody answers it.
_OPERATOR: Final = "operator"
#: Commands of one pipeline, and lines of one script.
_SLICE: Final = 256
#: Bytes of a reason, and of a meta.
_REASON: Final = 8_192
_META: Final = 1 << 20
_CHUNK: Final = CodecLimits().chunk_bytes

_log = logging.getLogger(__name__)


class JobStore:
    """The jobs of one server. Thread-safe; holds no connection and no thread of its own.

    Args:
        server: the federation's Redis.
        keys: of the store, or of the federation: then that of the server whose cell is called "server".
        policy: how long things stand, and how large they may be.
        stop: asked while Redis is away; True ends the attempts of a step, which then raises Unavailable. None: it is
            tried until the connection is closed. Every step is safe to repeat.

    Every method may raise Unavailable, and ServerError when Redis refuses for good.
    """

    def __init__(
        self,
        server: Server,
        keys: StoreKeys | Keys,
        policy: StorePolicy | None = None,
        *,
        stop: Callable[[], bool] | None = None,
    ) -> None:
        self.keys = keys.store() if isinstance(keys, Keys) else keys
        self.policy = policy or StorePolicy()
        self._server = server
        self._stop = stop
        self._scripts = StoreScripts(keys=self.keys, policy=self.policy)

    # -- operators -----------------------------------------------------------------------------------------------------

    def submit(
        self, meta: Mapping[str, Any], archive: Source, job_id: str | None = None, *, submitter: str | None = None
    ) -> str:
        """Store a job, and wake the server. Again with the same id, meta and archive changes nothing.

        Args:
            meta: what ``meta.json`` says; JSON.
            archive: content or path of the zip; a file is read a few MB at a time.
            job_id: None: a new one.
            submitter: who submits it; None: user and host of this process.

        Returns:
            The job's id.

        Raises:
            JobExists: another job has this id.
            ConfigError: the id is not legal, or the file cannot be read.
            EncodeError: meta is no JSON, or too large.
            MessageTooLarge: the archive is larger than ``policy.file_bytes``.
        """
        job_id = str(uuid.uuid4()) if job_id is None else check_job_id(job_id)
        told = _meta(meta)
        if known := self._fingerprint(job_id):
            return self._same(job_id, known, _fingerprint(told, job_files.digest(archive)))
        file = self._upload(f"{job_id}-archive", archive)
        fingerprint = _fingerprint(told, file.sha256)
        fields: list[Arg] = ["archive", file.to_json(), "name", _text(meta.get("name", "")), "meta", told]
        fields += ["submitter", whoami() if submitter is None else _text(submitter), "fingerprint", fingerprint]
        sent = self._scripts.submit(job_id, _blob(file), _told(SUBMITTED, "", submitter or whoami()), fields)
        said = self._run("store_submit", sent, self._event(job_id, "submitted"))
        if said.word == KNOWN:
            self._remove(file)
            return self._same(job_id, said.text(), fingerprint)
        self._check(said, job_id, file)
        return job_id

    def request_abort(self, job_id: str, by: str, reason: str = "") -> JobRecord:
        """Want a job to end, and wake the server; the first who asks counts.

        A job that was not dispatched is over when this returns; one that is over already stays as it is.

        Returns:
            The record after it.

        Raises:
            JobUnknown: there is none.
        """
        check_job_id(job_id)
        by, reason = _text(by), _text(reason)
        sent = self._scripts.abort(job_id, by, reason, _told(ABORTED, reason, by))
        said = self._run("store_abort", sent, self._event(job_id, "abort"))
        return self._record(job_id, self._check(said, job_id).rest[0])

    def delete(self, job_id: str) -> None:
        """Delete a job that is over, with its archive, log and result, and tell the server; none is no error.

        Raises:
            JobUnfinished: it is not over.
        """
        check_job_id(job_id)
        said = self._run("store_delete", self._scripts.delete(job_id), self._event(job_id, "deleted"))
        if said.word == OPEN:
            raise JobUnfinished(f"job {job_id} is {said.text()} and cannot be deleted: abort it and wait for its end")

    # -- reading -------------------------------------------------------------------------------------------------------

    def get(self, job_id: str) -> JobRecord | None:
        """A job's record; None: there is no such job.

        Raises:
            DecodeError: somebody else has written into it.
        """
        key = self.keys.record(check_job_id(job_id))
        found = self._server.run(key, lambda lane: lane.call("HGETALL", key), stop=self._stop)
        return self._record(job_id, found) if found else None

    def list(self, statuses: Iterable[str] | None = None) -> list[JobRecord]:
        """All jobs, or those of some statuses, oldest first; what cannot be read is left out, with a warning."""
        wanted = {check_status(status).encode() for status in (STATUSES if statuses is None else statuses)}
        found = self._server.run(self.keys.jobs, lambda lane: self._listed(lane, wanted), stop=self._stop)
        records = []
        for job_id, fields in found:
            try:
                records.append(self._record(job_id, fields))
            except DecodeError as error:
                _log.warning("%s", error)
        return records

    def _listed(self, lane: Lane, wanted: set[bytes]) -> list[tuple[str, Reply]]:
        ids = [job_id.decode() for job_id in cast("list[bytes]", lane.call("ZRANGE", self.keys.jobs, 0, -1))]
        statuses = _pipelined(lane, [("HGET", self.keys.record(job_id), "status") for job_id in ids])
        for job_id, status in zip(ids, statuses, strict=True):
            if status is None:  # it has expired
                _call(lane, self._scripts.renew(job_id))
        some = [job_id for job_id, status in zip(ids, statuses, strict=True) if status in wanted]
        records = _pipelined(lane, [("HGETALL", self.keys.record(job_id)) for job_id in some])
        return [(job_id, fields) for job_id, fields in zip(some, records, strict=True) if fields]

    # -- the server ----------------------------------------------------------------------------------------------------

    def advance(
        self, job_id: str, expected: str | Iterable[str], to: str, reason: str = "", by: str = "server"
    ) -> JobRecord | None:
        """Move a job forward, if it has one of the expected statuses and ``to`` is later.

        Returns:
            The record after it. None: it is elsewhere, or its abort was asked for and ``to`` is no FINISHED:*, or there
            is no such job; ``get`` tells which.

        Raises:
            ConfigError: a status is none.
        """
        check_job_id(job_id)
        names = sorted(map(check_status, [expected] if isinstance(expected, str) else expected))
        reason = _text(reason)
        told = _told(check_status(to), reason, _text(by))
        said = self._run("store_advance", self._scripts.advance(job_id, uuid.uuid4().hex, names, to, told, reason))
        return None if said.word in (REFUSED, UNKNOWN) else self._record(job_id, said.rest[0])

    def set_site(
        self, job_id: str, site: str, status: str, *, exit_code: int | None = None, reason: str = "", how: str = ""
    ) -> bool:
        """Note what became of a job at a site; False: there is no such job.

        Args:
            status: in the caller's words.
            exit_code: of the job's process.
            how: an abort ended it: cooperative, terminated, killed.
        """
        told: dict[str, object] = {"status": _text(status), "reason": _text(reason)}
        told |= {"exit_code": exit_code} if exit_code is not None else {}
        told |= {"how": _text(how)} if how else {}
        return self._note(job_id, f"site:{FQCN.check(site)}", told)

    def set_waiting(self, job_id: str, reason: str) -> bool:
        """Note why a job does not go on; the next change of its status takes it away. False: there is no such job."""
        return self._note(job_id, "waiting", {"reason": _text(reason)})

    def renew(self, ids: Iterable[str]) -> set[str]:
        """Let unfinished jobs live on; call it with each beat. The ids of those that are gone, or never were."""
        names = [check_job_id(job_id) for job_id in ids]
        said = self._run_all("store_renew", [self._scripts.renew(job_id) for job_id in names])
        return {job_id for job_id, told in zip(names, said, strict=True) if told.word == UNKNOWN}

    # -- files ---------------------------------------------------------------------------------------------------------

    def fetch_archive(self, job_id: str, to: str | os.PathLike[str]) -> Path:
        """Read a job's archive into a file, which is replaced when all of it is there and right.

        Raises:
            JobUnknown: there is no such job.
            BlobMissing: a chunk is gone.
            DecodeError: it is not what was stored.
            OSError: the file cannot be written.
        """
        file = self._file(job_id, "archive")
        return job_files.download(self._server, file, to, most=self.policy.file_bytes, stop=self._stop)

    def read_archive(self, job_id: str) -> bytes:
        """A job's archive, in memory.

        Raises:
            JobUnknown, BlobMissing, DecodeError: as ``fetch_archive``.
        """
        return job_files.load(self._server, self._file(job_id, "archive"), most=self.policy.file_bytes, stop=self._stop)

    def put_result(self, job_id: str, source: Source) -> StoredFile:
        """Store what a job leaves, a zip by content or path; it replaces what was stored before.

        Raises:
            JobUnknown: there is no such job; nothing is left.
            ConfigError: the file cannot be read.
            MessageTooLarge: it is larger than ``policy.file_bytes``.
        """
        if not self._fingerprint(check_job_id(job_id)):
            raise self._unknown(job_id)
        file = self._upload(f"{job_id}-result", source)
        said = self._run("store_result", self._scripts.result(job_id, _blob(file), file.to_json()))
        self._check(said, job_id, file)
        return file

    def fetch_result(self, job_id: str, to: str | os.PathLike[str]) -> Path:
        """Read a job's result into a file, as ``fetch_archive``.

        Raises:
            JobUnknown, BlobMissing, DecodeError, OSError: as ``fetch_archive``; BlobMissing: it has no result (yet).
        """
        file = self._file(job_id, "result")
        return job_files.download(self._server, file, to, most=self.policy.file_bytes, stop=self._stop)

    # -- the log -------------------------------------------------------------------------------------------------------

    def append_log(self, job_id: str, site: str, lines: Iterable[str], *, level: str = "") -> bool:
        """Write lines into a job's log, each with the time of now; False: there is no such job."""
        check_job_id(job_id)
        cut = [_line(line, self.policy.line_bytes) for line in lines]
        parts = [cut[first : first + _SLICE] for first in range(0, len(cut), _SLICE)]
        site, level = _text(site), _text(level)
        for part in parts:
            sent = self._scripts.log(job_id, uuid.uuid4().hex, site, level, part)
            if self._run("store_log", sent).word == UNKNOWN:
                return False
        return True

    def read_log(self, job_id: str, after: str = "0-0", *, count: int | None = None) -> list[LogLine]:
        """The lines behind the one with the id ``after``, oldest first; [] when there is no such job.

        Args:
            count: at most so many.
        """
        key = self.keys.log(check_job_id(job_id))
        found = self._server.run(key, lambda lane: lane.call(*_read_command(key, after, count)), stop=self._stop)
        streams = cast("list[tuple[bytes, list[tuple[bytes, list[bytes]]]]]", found or [])
        return [line for _, entries in streams for line in parse_lines(key, entries)]

    def follow(self, job_id: str, after: str = "0-0", *, block: float = 30.0) -> JobLogFollower:
        """The lines behind ``after``, and those that come, until the job is over; close it, or use it in a ``with``."""
        return JobLogFollower(self._server, self.keys, check_job_id(job_id), after, block=block)

    # -- steps ---------------------------------------------------------------------------------------------------------

    def _upload(self, name: str, source: Source) -> StoredFile:
        """A file in chunks that nobody knows yet: they expire soon."""
        prefix = self.keys.blob(f"{name}-{uuid.uuid4().hex[:12]}")
        p = self.policy
        return job_files.upload(
            self._server, prefix, source, chunk=_CHUNK, most=p.file_bytes, ttl_ms=p.upload_ms, stop=self._stop
        )

    def _remove(self, file: StoredFile) -> None:
        with suppress(RedflareError):  # what stays has its TTL
            blobs.remove(self._server, file.blob, stop=self._stop or (lambda: True))

    def _file(self, job_id: str, name: str) -> StoredFile:
        record = self.get(job_id)
        if record is None:
            raise self._unknown(job_id)
        file = record.archive if name == "archive" else record.result
        if file is None:
            raise BlobMissing(f"job {job_id} ({record.status}) has no {name}")
        return file

    def _fingerprint(self, job_id: str) -> str:
        """By which a job is known as the same; "" when there is none of this id."""
        key = self.keys.record(job_id)
        found = self._server.run(key, lambda lane: lane.call("HGET", key, "fingerprint"), stop=self._stop)
        return found.decode() if isinstance(found, bytes) else ""

    def _same(self, job_id: str, known: str, fingerprint: str) -> str:
        if known != fingerprint:
            raise JobExists(f"job {job_id} has another meta or archive: submit under another id, or without one")
        return job_id

    def _note(self, job_id: str, name: str, told: Mapping[str, object]) -> bool:
        said = self._run("store_note", self._scripts.note(check_job_id(job_id), name, orjson.dumps(told)))
        return said.word == OK

    def _check(self, said: Answer, job_id: str, file: StoredFile | None = None) -> Answer:
        """The answer to a step that took effect; the chunks of one that did not go."""
        if said.word == OK:
            return said
        if file is not None:
            self._remove(file)
        if said.word == BLOB_MISSING:
            raise BlobMissing(f"job {job_id}: chunks of its file are gone (expired, or lost in a failover); try again")
        raise self._unknown(job_id)

    def _unknown(self, job_id: str) -> JobUnknown:
        return JobUnknown(
            f"the store of {self.keys.fqcn} has no job {job_id}: it was deleted, has expired or never was"
        )

    def _record(self, job_id: str, reply: Reply) -> JobRecord:
        words = cast("list[bytes]", reply)
        fields = dict(zip(words[::2], words[1::2], strict=True))
        return read_record(self.keys.record(job_id), job_id, fields, self.keys.blob(""))

    def _event(self, job_id: str, change: str) -> list[Arg]:
        """The command that wakes the server, whether it is there or not."""
        envelope = Envelope(
            kind=EVENT,
            id=uuid.uuid4().hex,
            attempt=1,
            channel=STORE_CHANNEL,
            topic=STORE_TOPIC,
            origin=_OPERATOR,
            meta=orjson.dumps({"job_id": job_id, "change": change}),
        )
        return command("cell_post", [self.keys.inbox], [self.policy.event_ms, *envelope.fields()])

    def _run(self, name: str, sent: list[Arg], event: list[Arg] | None = None) -> Answer:
        """Run a step; ``event`` goes behind it in the same round trip."""

        def run(lane: Lane) -> Answer:
            commands = [sent, event] if event else [sent]
            replies = lane.pipeline(commands)
            if any(isinstance(reply, ReplyError) and reply.code == "NOSCRIPT" for reply in replies):
                # the step first, and then the event, if need be again
                replies = lane.pipeline([retried(each) for each in commands])
            for reply in replies[1:]:
                require(reply, lane.node)
            return answer(name, replies[0])

        return self._server.run(self.keys.jobs, run, stop=self._stop)

    def _run_all(self, name: str, commands: Sequence[list[Arg]]) -> list[Answer]:
        def run(lane: Lane) -> list[Answer]:
            return [answer(name, reply) for reply in _scripts_pipelined(lane, commands)]

        return self._server.run(self.keys.jobs, run, stop=self._stop)

    def __repr__(self) -> str:
        return f"<JobStore of {self.keys.fqcn} in {self._server.url}>"


def whoami() -> str:
    """User and host of this process: ``ann@gpu-1``."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # no entry in the list of users, as in many containers
        user = str(os.getuid())
    return _text(f"{user}@{socket.gethostname()}")


def _call(lane: Lane, sent: list[Arg]) -> Reply:
    return _scripts_pipelined(lane, [sent])[0]


def _scripts_pipelined(lane: Lane, commands: Sequence[list[Arg]]) -> list[Reply]:
    """Run scripts; those that the server does not know are sent again with their source."""
    replies: list[Reply] = []
    for first in range(0, len(commands), _SLICE):
        part = commands[first : first + _SLICE]
        for sent, reply in zip(part, lane.pipeline(part), strict=True):
            unknown = isinstance(reply, ReplyError) and reply.code == "NOSCRIPT"
            replies.append(lane.pipeline([retried(sent)])[0] if unknown else reply)
    return replies


def _pipelined(lane: Lane, commands: Sequence[Sequence[Arg]]) -> list[Reply]:
    replies: list[Reply] = []
    for first in range(0, len(commands), _SLICE):
        replies += [require(reply, lane.node) for reply in lane.pipeline(commands[first : first + _SLICE])]
    return replies


def _read_command(key: str, after: str, count: int | None) -> list[Arg]:
    return ["XREAD", *(["COUNT", count] if count is not None else []), "STREAMS", key, after]


def _meta(meta: Mapping[str, Any]) -> bytes:
    try:
        told = orjson.dumps(dict(meta), option=orjson.OPT_SORT_KEYS)
    except TypeError as error:
        raise EncodeError(f"a job's meta must be JSON: {error}") from error
    if len(told) > _META:
        raise EncodeError(f"a job's meta has {len(told)} bytes of JSON; at most {_META} are stored")
    return told


def _fingerprint(meta: bytes, sha256: str) -> str:
    return hashlib.sha256(meta + sha256.encode()).hexdigest()


def _told(status: str, reason: str, by: str) -> bytes:
    return orjson.dumps({"status": status, "reason": reason, "by": by})


def _blob(file: StoredFile) -> tuple[str, int]:
    return file.blob.prefix, file.blob.chunks


def _text(value: object) -> str:
    """A text that any reader can read, and not too long."""
    return _line(str(value), _REASON).decode()


def _line(text: str, most: int) -> bytes:
    line = text.rstrip("\r\n").encode("utf-8", "replace")
    if len(line) <= most:
        return line
    return line[: max(0, most - 3)].decode("utf-8", "ignore").encode() + b"..."
