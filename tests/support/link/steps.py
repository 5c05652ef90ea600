"""A link brought to any state by its scripts alone, for tests of the inspection."""

from __future__ import annotations

import orjson
from redflare_broker.config.retention import RetentionPolicy
from redflare_broker.keys import DEFAULT_NAMESPACE, Keys
from redflare_broker.scripts.lease import Lease, Role
from redflare_broker.scripts.link_scripts import LinkScripts
from redflare_broker.scripts.script import ScriptReply, run_command
from redflare_broker.transport.server import Server
from redflare_broker.wire.task_entry import BlobRef, Entry


class LinkSteps:
    """Both sides of one link, taking one step at a time."""

    def __init__(self, server: Server, fqcn: str = "site-1--trainer", namespace: str = DEFAULT_NAMESPACE) -> None:
        self.server = server
        self.fqcn = fqcn
        self.keys = Keys(namespace).link(fqcn)
        self.scripts = LinkScripts(keys=self.keys, publish=server.publish, policy=RetentionPolicy())
        self.agent = Lease(name="agent", instance="none")
        self.cj = Lease(name="cj", instance="none")

    def hello(self, role: Role, name: str) -> None:
        """Let a new instance take over a side."""
        with self.server.borrow(self.keys.link) as connection:
            epoch = self.scripts.hello(connection, Lease(name=role, instance=name)).number()
        setattr(self, role, Lease(name=role, instance=name, epoch=epoch))

    def beat(self, role: Role, *, interval: float = 5.0, age_ms: int = 0, left_ms: int = 60_000) -> None:
        """Write a heartbeat that is ``age_ms`` old and expires in ``left_ms``."""
        lease: Lease = getattr(self, role)
        host, pid, _ = lease.instance.split(":")
        beat = {"instance": lease.instance, "epoch": lease.epoch, "host": host, "pid": int(pid), "interval": interval}
        command = self.scripts.beat_command(
            lease, orjson.dumps({**beat, "ttl_ms": left_ms + age_ms, "version": 1, "task": ""}), left_ms, None
        )
        with self.server.borrow(self.keys.link) as connection:
            run_command(connection, command)

    def both(self) -> None:
        """Connect CJ and agent."""
        self.hello("cj", "cj-host:100:a")
        self.beat("cj")
        self.hello("agent", "agent-host:200:b")
        self.beat("agent")

    def assign(self, task_id: str, name: str = "train", blob: BlobRef | None = None) -> ScriptReply:
        entry = Entry(topic="get_task", task_id=task_id, task_name=name, session=self.cj.instance, blob=blob)
        with self.server.borrow(self.keys.link) as connection:
            return self.scripts.assign(connection, self.cj, entry, size=blob.nbytes if blob else 10)

    def take(self, task_id: str) -> ScriptReply:
        with self.server.borrow(self.keys.link) as connection:
            return self.scripts.take(connection, self.agent, task_id)

    def submit(self, task_id: str, rc: str = "OK", blob: BlobRef | None = None) -> ScriptReply:
        entry = Entry(topic="submit_result", task_id=task_id, rc=rc, blob=blob)
        with self.server.borrow(self.keys.link) as connection:
            return self.scripts.submit(connection, self.agent, entry, submit_id="s", size=blob.nbytes if blob else 7)

    def settle(self, task_id: str, status: str = "ACCEPTED", reason: str = "") -> ScriptReply:
        with self.server.borrow(self.keys.link) as connection:
            return self.scripts.settle(connection, self.cj, task_id, status, reason)

    def abort(self, task_id: str, reason: str) -> ScriptReply:
        with self.server.borrow(self.keys.link) as connection:
            return self.scripts.abort(connection, self.cj, task_id, reason)

    def bye(self, role: Role) -> None:
        with self.server.borrow(self.keys.link) as connection:
            self.scripts.bye(connection, getattr(self, role))

    def register(self) -> None:
        """Record in ``ns:agents`` that the agent was seen now."""
        with self.server.borrow(Keys().agents) as connection:
            self.scripts.register(connection, Keys().agents)

    def bury(self, stream: str, reason: str, *fields: str | bytes) -> str:
        """Add a foreign entry to a stream and bury it; return the id of its dead letter."""
        with self.server.borrow(stream) as connection:
            entry = connection.call("XADD", stream, "*", *fields)
            assert isinstance(entry, bytes)
            assert self.scripts.bury(connection, None, stream, entry.decode(), reason).status == "BURIED"
            newest = connection.call("XREVRANGE", self.keys.dead, "+", "-", "COUNT", 1)
        assert isinstance(newest, list)
        assert isinstance(newest[0], list)
        assert isinstance(newest[0][0], bytes)
        return newest[0][0].decode()

    def store(self, prefix: str, *sizes: int) -> BlobRef:
        """Write a payload in chunks of these sizes."""
        for number, size in enumerate(sizes):
            key = f"{prefix}:{number}"
            with self.server.borrow(key) as connection:
                connection.call("SET", key, b"x" * size, "PX", 60_000)
        return BlobRef(prefix=prefix, chunk=max(sizes), sizes=(sum(sizes),))
