"""A job in Redis, as its server and its sites write it, for tests of the inspection."""

from __future__ import annotations

import time
from typing import Any

import orjson
from redflare_broker.inspection.redis_read import now_of
from redflare_broker.job_state.task_store import ClientTaskRecord, JobTaskStore, TaskRecord
from redflare_broker.keys import Keys
from redflare_broker.scripts.lease import Lease
from redflare_broker.transport.connection import Connection
from redflare_broker.transport.server import Server
from redflare_broker.wire.message_entry import Envelope

from tests.support.job.state import JobBench


class LiveJobBench(JobBench):
    """As ``JobBench``, with heartbeats of the server, requests in its inboxes, and current times."""

    def __init__(self, server: Server, connection: Connection, namespace: str = "flare") -> None:
        super().__init__(server, connection, namespace)
        self.cell_keys = Keys(namespace).cell(self.keys.fqcn)

    def run_server(self, *, resume: bool = True) -> JobTaskStore:
        """Start another server, which is connected."""
        store = self.started(resume=resume)
        self.connection.call("HSET", self.keys.cell, "since", self.now_ms(), "closed", 0, "host", "hub", "pid", 42)
        self.server_beats()
        return store

    def server_beats(self, *, age_ms: int = 0) -> None:
        beat = {"instance": self.lease.instance, "epoch": self.lease.epoch, "interval": 5.0, "ttl_ms": 60_000}
        self.connection.call("SET", self.keys.server_heartbeat, orjson.dumps(beat), "PX", 60_000 - age_ms)

    def site(self, name: str) -> Lease:
        """Let a site join and connect."""
        lease = self.joined(name, name)
        self.beat(lease)
        return lease

    def silence(self, lease: Lease, *, age_ms: int = 40_000) -> None:
        """Make its last heartbeat that old, or delete it; the site has joined an hour ago."""
        if age_ms < 60_000:
            self.connection.call("PEXPIRE", self.keys.heartbeat(lease.name), 60_000 - age_ms)
        else:
            self.connection.call("DEL", self.keys.heartbeat(lease.name))
        record = orjson.loads(self.record(lease.name))
        record["joined"] -= 3_600_000
        self.connection.call("SET", self.keys.client(lease.name), orjson.dumps(record), "KEEPTTL")

    def add_request(self, lease: Lease, topic: str = "get_task", *, entry: str = "*", **meta: str) -> None:
        """Put a request of a site into its inbox at the server, as this entry."""
        fields = {"client": lease.name, "instance": lease.instance, "epoch": lease.epoch, **meta}
        envelope = Envelope(
            kind="request",
            id=f"{lease.name}-{topic}",
            attempt=1,
            channel="job",
            topic=topic,
            origin=f"{lease.name}.job-1",
            meta=orjson.dumps(fields),
        )
        self.write(lease.name, *envelope.fields(), entry=entry)

    def write(self, sender: str, *fields: Any, entry: str = "*") -> None:
        """Put an entry into a sender's inbox at the server."""
        self.connection.call("XADD", self.cell_keys.inbox(sender), entry, *fields)
        self.connection.call("SADD", self.cell_keys.senders, sender)

    def give_task(self, store: JobTaskStore, task: TaskRecord, lease: Lease, count: int = 1) -> ClientTaskRecord:
        """Record that a task was given to a site."""
        record = ClientTaskRecord(id=f"{task.root_id}-{lease.name}", client=lease.name, sent=time.time(), count=count)
        store.note(task.root_id, [record])
        return record

    def now_ms(self) -> int:
        return now_of(self.connection.call("TIME"))


def scheduled(root_id: str = "t1", name: str = "train", kind: str = "broadcast", **fields: object) -> TaskRecord:
    """Return the record of a task that was scheduled just now."""
    known: dict[str, object] = {"order": 1, "scheduled": time.time(), "kind": kind, "name": name}
    return TaskRecord(root_id=root_id, **{**known, **fields})  # type: ignore[arg-type]
