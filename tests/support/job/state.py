"""A test bench for a job's members and tasks in Redis; the hash of the server's cell is written by the test."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from redflare_broker.config.retention import RetentionPolicy
from redflare_broker.job_state.members import JobStart, MemberList, Members
from redflare_broker.job_state.task_store import ClientTaskRecord, JobTaskStore, TaskRecord
from redflare_broker.keys import Keys
from redflare_broker.payload.encoded_payload import EncodedPayload
from redflare_broker.scripts.lease import Lease
from redflare_broker.scripts.script import ScriptReply, parse_reply, run_pipeline
from redflare_broker.transport.connection import Connection
from redflare_broker.transport.replies import Arg, RedisReply
from redflare_broker.transport.server import Server
from redflare_broker.wire.task_entry import BlobRef


class JobBench:
    """One job, its newest server and any number of clients."""

    def __init__(
        self, server: Server, connection: Connection, namespace: str = "flare", policy: RetentionPolicy | None = None
    ) -> None:
        self.server = server
        self.connection = connection
        self.policy = policy or RetentionPolicy()
        self.keys = Keys(namespace).job("server.job-1")
        self.membership = Members(self.keys, self.policy)
        self.lease = Lease(instance="s0", epoch=0, run="r0")
        self._starts = 0

    # -- the server ----------------------------------------------------------------------------------------------------

    def serve(self) -> Lease:
        """Let another server process take over the cell."""
        self._starts += 1
        self.lease = Lease(instance=f"s{self._starts}", epoch=self._starts, run=f"r{self._starts}")
        self.hold_cell()
        return self.lease

    def hold_cell(self) -> None:
        """Write the hash of the newest server's cell."""
        self.connection.call("HSET", self.keys.cell, "instance", self.lease.instance, "epoch", self.lease.epoch)
        self.connection.call("PEXPIRE", self.keys.cell, self.policy.retention_ms)

    def begin(self, lease: Lease | None = None, *, resume: bool = True) -> JobStart:
        return self.membership.begin(self.connection, lease or self.lease, resume=resume)

    def task_store(self, *, resume: bool = True, lease: Lease | None = None) -> JobTaskStore:
        return JobTaskStore(self.server, self.keys, lease or self.lease, self.policy, resume=resume)

    def started(self, *, resume: bool = True) -> JobTaskStore:
        """Start another server; return its task store."""
        self.serve()
        self.begin(resume=resume)
        return self.task_store(resume=resume)

    def list_members(self, lease: Lease | None = None) -> MemberList:
        return self.membership.read_members(self.run(self.membership.list_members_command(lease or self.lease)))

    def run(self, command: list[Arg]) -> RedisReply:
        """Run a command through a pipeline, as the sources do."""
        return run_pipeline(self.connection, [command])[0]

    def status(self, command: list[Arg]) -> str:
        return parse_reply("job/note_client_task", self.run(command)).status

    # -- clients -------------------------------------------------------------------------------------------------------

    def join(self, name: str = "site-1", instance: str = "c1", epoch: int = 0, **props: Any) -> ScriptReply:
        return self.membership.join(self.connection, client(name, instance, epoch), f"{name}.job-1", props)

    def joined(self, name: str = "site-1", instance: str = "c1") -> Lease:
        return client(name, instance, self.join(name, instance).number())

    def beat(self, lease: Lease, ttl_ms: int = 60_000) -> Any:
        return Members.read_beat(self.run(self.membership.beat_command(lease, interval=5.0, ttl_ms=ttl_ms)))

    # -- keys in Redis ------------------------------------------------------------------------------------------------

    def record(self, name: str) -> str:
        """The record of a client."""
        text = self.connection.call("GET", self.keys.client(name))
        assert isinstance(text, bytes)
        return text.decode()

    def hash(self, key: str) -> dict[str, str]:
        reply = self.connection.call("HGETALL", key)
        assert isinstance(reply, list)
        words = [word.decode("utf-8", "replace") for word in reply if isinstance(word, bytes)]
        return dict(zip(words[::2], words[1::2], strict=True))

    def members(self, key: str) -> list[str]:
        reply = self.connection.call("ZRANGE", key, 0, -1)
        assert isinstance(reply, list)
        return [word.decode() for word in reply if isinstance(word, bytes)]

    def ttl_ms(self, key: str) -> int:
        left = self.connection.call("PTTL", key)
        assert isinstance(left, int)
        return left

    def own_keys(self) -> list[str]:
        return sorted(key for key in self.server.scan("*") if key.startswith(self.keys.namespace + ":"))


def client(name: str = "site-1", instance: str = "c1", epoch: int = 0) -> Lease:
    return Lease(name=name, instance=f"gpu-1:7:{instance}", epoch=epoch)


def task(root_id: str = "t1", order: int = 1, kind: str = "broadcast", **fields: Any) -> TaskRecord:
    return TaskRecord(root_id=root_id, name="train", kind=kind, order=order, scheduled=1_000.25, **fields)


def sent(task_id: str = "ct1", name: str = "site-1", **fields: Any) -> ClientTaskRecord:
    return ClientTaskRecord(id=task_id, client=name, sent=1_001.5, **fields)


def received(task_id: str = "ct1", name: str = "site-1", **fields: Any) -> ClientTaskRecord:
    fields = {"rc": "OK", "meta": {"h": 1}, "result": small(task_id), **fields}
    return sent(task_id, name, received=1_002.125, **fields)


def small(word: str = "x") -> EncodedPayload:
    """A payload that is stored in a hash."""
    return EncodedPayload(b'{"w":{"$bytes":[0,3]},"s":"' + word.encode() + b'"}', (b"\xff\x00a",))


def large(number: int = 1, chunks: int = 3) -> EncodedPayload:
    """A payload that refers to chunks."""
    return EncodedPayload(
        b'{"$bytes":[0,1]}', blob=BlobRef(prefix=f"flare:blob:{{b{number}}}", chunk=10, sizes=(10 * chunks,))
    )


def prefixes(payloads: Iterable[Any]) -> set[str]:
    return {payload.prefix for payload in payloads}
