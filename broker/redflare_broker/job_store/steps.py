"""Run the steps of the job store, and make the values that they write."""

from __future__ import annotations

import getpass
import hashlib
import os
import socket
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias, cast

import orjson

from redflare_broker.config.retention import JobRetentionPolicy
from redflare_broker.errors import BlobMissing, EncodeError, JobUnknown
from redflare_broker.fqcn import check_job_id
from redflare_broker.keys import StoreKeys
from redflare_broker.payload.payload_store import discard
from redflare_broker.scripts.cell_scripts import POST, sender_values
from redflare_broker.scripts.script import (
    BLOB_MISSING,
    OK,
    PIPELINE_LENGTH,
    ScriptReply,
    is_unknown,
    parse_reply,
    run_command,
    run_scripts,
    script_name,
    teach,
)
from redflare_broker.scripts.store_scripts import RENEW, job_values
from redflare_broker.transport.connection import Connection
from redflare_broker.transport.replies import Arg, Command, RedisReply, require
from redflare_broker.transport.server import Server
from redflare_broker.wire.limits import CodecLimits
from redflare_broker.wire.message_entry import EVENT, Envelope

from . import job_files
from .job_files import Source
from .record import JobRecord, StoredFile, read_record

#: Channel and topic of the events that announce changes to the server's cell.
STORE_CHANNEL: Final = "server"
STORE_TOPIC: Final = "jobs_changed"

#: Sender of the events; nobody answers it.
_OPERATOR: Final = "operator"
#: Bytes of a reason, and of a meta.
_REASON: Final = 8_192
_META: Final = 1 << 20
_CHUNK: Final = CodecLimits().chunk_bytes

#: Ids of jobs and the fields of their records.
RawRecords: TypeAlias = list[tuple[str, RedisReply]]


class StoreSteps:
    """Runs the steps of one store; arguments as ``JobStore``'s."""

    def __init__(
        self, server: Server, keys: StoreKeys, policy: JobRetentionPolicy, stop: Callable[[], bool] | None
    ) -> None:
        self.keys = keys
        self._server = server
        self._policy = policy
        self._stop = stop

    # -- scripts -------------------------------------------------------------------------------------------------------

    def values(self, job_id: str, submission: str = "") -> dict[str, Arg]:
        """Make what all steps of a job share; ConfigError: the id is none."""
        return job_values(self.keys, self._policy, check_job_id(job_id), submission)

    def run(self, command: list[Arg], change: tuple[str, str] | None = None) -> ScriptReply:
        """Run a script.

        Args:
            change: job id and word of an event that wakes the server: it goes behind the step in the same round trip,
                whether the server is there or not. A step that was tried again may be announced twice.
        """

        def run(connection: Connection) -> ScriptReply:
            if change is None:
                return run_command(connection, command)
            reply = self._announce(connection, command, change)
            if is_unknown(reply):
                reply = self._announce(connection, teach(connection, [command])[0], change)
            return parse_reply(script_name(command), reply)

        return self._server.run(self.keys.jobs, run, stop=self._stop)

    def _announce(self, connection: Connection, command: list[Arg], change: tuple[str, str]) -> RedisReply:
        """Run a step and post its event; return the reply to the step."""
        # a new event for each attempt: the one of a failed attempt may have been dealt with before the step
        event = self._event(*change)
        reply, posted = connection.pipeline([command, event])
        if is_unknown(posted) and not is_unknown(reply):
            posted = connection.pipeline(teach(connection, [event]))[0]
        if not is_unknown(posted):
            require(posted, connection.node)
        return reply

    def run_all(self, commands: Sequence[list[Arg]]) -> list[ScriptReply]:
        """Run many scripts."""
        return self._server.run(self.keys.jobs, lambda connection: run_scripts(connection, commands), stop=self._stop)

    def _event(self, job_id: str, change: str) -> list[Arg]:
        envelope = Envelope(
            kind=EVENT,
            id=uuid.uuid4().hex,
            attempt=1,
            channel=STORE_CHANNEL,
            topic=STORE_TOPIC,
            origin=_OPERATOR,
            meta=orjson.dumps({"job_id": job_id, "change": change}),
        )
        values = sender_values(self.keys.cell, _OPERATOR, self._server.publish, self._policy.event_ms)
        return POST.command(values, envelope.fields())

    def check(self, reply: ScriptReply, job_id: str, file: StoredFile | None = None) -> ScriptReply:
        """Return the reply to a step that took effect; after one that did not, delete the chunks of ``file``.

        Raises:
            BlobMissing: a chunk of the file is gone.
            JobUnknown: there is no such job.
        """
        if reply.status == OK:
            return reply
        if file is not None:
            self.remove(file)
        if reply.status == BLOB_MISSING:
            raise BlobMissing(f"job {job_id}: chunks of its file are gone (expired, or lost in a failover); try again")
        raise self.unknown(job_id)

    def unknown(self, job_id: str) -> JobUnknown:
        return JobUnknown(
            f"the store of {self.keys.fqcn} has no job {job_id}: it was deleted, has expired or never was"
        )

    # -- reading -------------------------------------------------------------------------------------------------------

    def call(self, key: str, *args: Arg) -> RedisReply:
        return self._server.run(key, lambda connection: connection.call(*args), stop=self._stop)

    def listed(self, wanted: set[bytes]) -> RawRecords:
        """Read the records of some statuses, oldest first; jobs that have expired go from the list."""
        return self._server.run(self.keys.jobs, lambda connection: self._listed(connection, wanted), stop=self._stop)

    def _listed(self, connection: Connection, wanted: set[bytes]) -> RawRecords:
        ids = [job_id.decode() for job_id in cast("list[bytes]", connection.call("ZRANGE", self.keys.jobs, 0, -1))]
        statuses = _pipelined(connection, [("HGET", self.keys.record(job_id), "status") for job_id in ids])
        found = dict(zip(ids, statuses, strict=True))
        expired = [job_id for job_id in ids if found[job_id] is None]
        run_scripts(connection, [RENEW.command(job_values(self.keys, self._policy, job_id)) for job_id in expired])
        some = [job_id for job_id in ids if found[job_id] in wanted]
        records = _pipelined(connection, [("HGETALL", self.keys.record(job_id)) for job_id in some])
        return [(job_id, fields) for job_id, fields in zip(some, records, strict=True) if fields]

    def fingerprint(self, job_id: str) -> str:
        """Read by what a job is known as the same; "" when there is none of this id."""
        key = self.keys.record(job_id)
        found = self.call(key, "HGET", key, "fingerprint")
        return found.decode() if isinstance(found, bytes) else ""

    def record(self, job_id: str, reply: RedisReply) -> JobRecord:
        """Read a record from the reply to HGETALL; DecodeError: it is none."""
        words = cast("list[bytes]", reply)
        fields = dict(zip(words[::2], words[1::2], strict=True))
        return read_record(self.keys.record(job_id), job_id, fields, self.keys.blob(""))

    # -- files ---------------------------------------------------------------------------------------------------------

    def upload(self, name: str, source: Source) -> StoredFile:
        """Write a file in chunks that no record names yet: they expire soon."""
        prefix = self.keys.blob(f"{name}-{uuid.uuid4().hex}")
        p = self._policy
        return job_files.upload(
            self._server, prefix, source, chunk=_CHUNK, most=p.file_bytes, ttl_ms=p.upload_ms, stop=self._stop
        )

    def remove(self, file: StoredFile) -> None:
        discard(self._server, file.blob)


def _pipelined(connection: Connection, commands: Sequence[Command]) -> list[RedisReply]:
    parts = [commands[first : first + PIPELINE_LENGTH] for first in range(0, len(commands), PIPELINE_LENGTH)]
    return [require(reply, connection.node) for part in parts for reply in connection.pipeline(part)]


# -- values ------------------------------------------------------------------------------------------------------------


def whoami() -> str:
    """User and host of this process: ``ann@gpu-1``."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # not in the list of users, as in many containers
        user = str(os.getuid())
    return clean(f"{user}@{socket.gethostname()}")


def pack_meta(meta: Mapping[str, Any]) -> bytes:
    """Encode a job's meta as JSON, the same for the same meta.

    Raises:
        EncodeError: it is not JSON, or too large.
    """
    try:
        packed = orjson.dumps(dict(meta), option=orjson.OPT_SORT_KEYS)
    except TypeError as error:
        raise EncodeError(f"a job's meta must be JSON: {error}") from error
    if len(packed) > _META:
        raise EncodeError(f"a job's meta has {len(packed)} bytes of JSON; at most {_META} are stored")
    return packed


def fingerprint(meta: bytes, sha256: str) -> str:
    """Identify a job by its meta and its archive."""
    return hashlib.sha256(meta + sha256.encode()).hexdigest()


def status_change(status: str, reason: str, by: str) -> bytes:
    """Encode a change of status for the history; the script adds the time."""
    return orjson.dumps({"status": status, "reason": reason, "by": by})


def clean(value: object) -> str:
    """Make a text that every reader can decode, and not too long."""
    return truncate(str(value), _REASON).decode()


def truncate(text: str, most: int) -> bytes:
    """Encode a text in at most so many bytes, without its line end."""
    line = text.rstrip("\r\n").encode("utf-8", "replace")
    if len(line) <= most:
        return line
    return line[: max(0, most - 3)].decode("utf-8", "ignore").encode() + b"..."
