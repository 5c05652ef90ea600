"""A test bench for the job store, on fakeredis or any server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from redflare_broker.config.retention import JobRetentionPolicy
from redflare_broker.job_store.record import DISPATCHED, RUNNING, SUBMITTED, JobRecord, StoredFile
from redflare_broker.job_store.store import JobStore
from redflare_broker.keys import Keys
from redflare_broker.scripts.script import run_pipeline
from redflare_broker.scripts.store_scripts import RESULT, SUBMIT
from redflare_broker.transport.connection import Connection
from redflare_broker.transport.replies import Arg, RedisReply
from redflare_broker.transport.server import Server
from redflare_broker.wire.message_entry import Envelope

META = {"name": "hello", "min_clients": 2}
ARCHIVE = bytes(range(256)) * 10


class StoreBench:
    """A test bench for the job store, with a connection of its own."""

    def __init__(
        self, server: Server, connection: Connection, namespace: str = "flare", policy: JobRetentionPolicy | None = None
    ) -> None:
        self.server = server
        self.connection = connection
        self.store = JobStore(server, Keys(namespace), policy)
        self.keys = self.store.keys
        #: where operators' events go
        self.inbox = self.keys.cell.inbox("operator")
        self.values = self.store._steps.values

    def submit(self, job_id: str = "job-1", **fields: Any) -> str:
        return self.store.submit({**META, **fields}, ARCHIVE, job_id, submitter="ann")

    def running(self, job_id: str = "job-1") -> JobRecord:
        """Submit a job and set it running."""
        self.submit(job_id)
        self.store.advance(job_id, SUBMITTED, DISPATCHED, "2 sites")
        return self.get(job_id, self.store.advance(job_id, DISPATCHED, RUNNING))

    def finished(self, job_id: str = "job-1", status: str = "FINISHED:COMPLETED") -> JobRecord:
        self.running(job_id)
        return self.get(job_id, self.store.advance(job_id, RUNNING, status))

    def get(self, job_id: str = "job-1", record: JobRecord | None = None) -> JobRecord:
        found = record or self.store.get(job_id)
        assert found is not None
        return found

    # -- keys in Redis ------------------------------------------------------------------------------------------------

    def run(self, command: list[Arg]) -> RedisReply:
        return run_pipeline(self.connection, [command])[0]

    def names(self) -> list[str]:
        """All keys, without namespace and hash tag."""
        head = f"{self.keys.prefix}:"
        return sorted(key.removeprefix(head) for key in self.server.scan(f"{self.keys.namespace}:*"))

    def chunks(self) -> list[str]:
        return [name for name in self.names() if name.startswith("blob:")]

    def ttl_ms(self, key: str) -> int:
        left = self.connection.call("PTTL", key)
        assert isinstance(left, int)
        return left

    def ttls_ms(self) -> dict[str, int]:
        return {name: self.ttl_ms(f"{self.keys.prefix}:{name}") for name in self.names()}

    def content(self, job_id: str = "job-1") -> list[RedisReply]:
        """The content of all keys of a job, except its chunks."""
        return self.connection.pipeline(
            [
                ("ZRANGE", self.keys.jobs, 0, -1, "WITHSCORES"),
                ("HGETALL", self.keys.record(job_id)),
                ("XRANGE", self.keys.log(job_id), "-", "+"),
            ]
        )

    def events(self) -> list[Envelope]:
        """The events in the inbox of the server's cell."""
        entries = cast("list[tuple[bytes, list[bytes]]]", self.connection.call("XRANGE", self.inbox, "-", "+"))
        return [Envelope.parse(self.inbox, entry_id.decode(), flat, self.keys.namespace) for entry_id, flat in entries]


def submission(
    bench: StoreBench, job_id: str, file: StoredFile, chunks: int, fields: Sequence[Arg] = (), change: bytes = b"{}"
) -> list[Arg]:
    """The step that stores a job with this archive."""
    archive: dict[str, Arg] = {"archive_prefix": file.blob.prefix, "chunks": chunks, "archive": file.to_json()}
    return SUBMIT.command(bench.values(job_id) | archive, fields, change=change)


def result(bench: StoreBench, job_id: str, file: StoredFile, chunks: int) -> list[Arg]:
    """The step that gives a job this result."""
    values: dict[str, Arg] = {"result_prefix": file.blob.prefix, "chunks": chunks, "result": file.to_json()}
    return RESULT.command(bench.values(job_id) | values)
