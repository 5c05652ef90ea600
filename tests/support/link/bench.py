"""A test bench for the scripts of a link."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from redflare_broker.config.retention import RetentionPolicy
from redflare_broker.keys import Keys
from redflare_broker.scripts import script
from redflare_broker.scripts.lease import Lease
from redflare_broker.scripts.link_scripts import LinkScripts
from redflare_broker.scripts.script import ScriptReply
from redflare_broker.transport.connection import Connection
from redflare_broker.transport.replies import RedisReply
from redflare_broker.wire.task_entry import Entry


class LinkBench:
    """One link, its scripts, and the newest instance of each side."""

    def __init__(self, connection: Connection, namespace: str = "flare", policy: RetentionPolicy | None = None) -> None:
        self.connection = connection
        self.keys = Keys(namespace).link("site-1--trainer")
        self.scripts = LinkScripts(keys=self.keys, publish="PUBLISH", policy=policy or RetentionPolicy())
        self.agent = self.start(Lease(name="agent", instance="a1"))
        self.cj = self.start(Lease(name="cj", instance="c1"))

    def start(self, lease: Lease) -> Lease:
        return Lease(
            name=lease.name, instance=lease.instance, epoch=self.scripts.hello(self.connection, lease).number()
        )

    def assign(self, task: str, expected: str = "", lost: str = "") -> ScriptReply:
        entry = Entry(topic="get_task", task_id=task, task_name="train", data=b'"' + b"x" * 100 + b'"')
        return self.scripts.assign(self.connection, self.cj, entry, size=3, expected=expected, lost=lost)

    def take(self, task: str, lease: Lease | None = None) -> ScriptReply:
        return self.scripts.take(self.connection, lease or self.agent, task)

    def refuse(self, task: str, rc: str) -> ScriptReply:
        return self.scripts.refuse(self.connection, self.agent, task, rc, "why")

    def submit(self, task: str, submit_id: str = "s1") -> ScriptReply:
        entry = Entry(topic="submit_result", task_id=task, rc="OK", data=b'"' + b"y" * 100 + b'"')
        return self.scripts.submit(self.connection, self.agent, entry, submit_id=submit_id, size=4)

    def settle(self, task: str, status: str = "ACCEPTED") -> ScriptReply:
        return self.scripts.settle(self.connection, self.cj, task, status, "why")

    def accept_unread(self, task: str) -> ScriptReply:
        sent = self.scripts.accept_command(self.cj, task)
        return script.parse_reply("link/settle", script.run_pipeline(self.connection, [sent])[0])

    def abort(self, task: str, lease: Lease | None = None) -> ScriptReply:
        return self.scripts.abort(self.connection, lease, task, "why")

    def beat(self, lease: Lease, task: str = "") -> ScriptReply:
        sent = self.scripts.beat_command(lease, b"{}", 60_000, task)
        return script.parse_reply("link/beat", script.run_pipeline(self.connection, [sent])[0])

    def bury(self, lease: Lease | None, stream: str, entry: str) -> ScriptReply:
        return self.scripts.bury(self.connection, lease, stream, entry, "why")

    def bye(self, lease: Lease) -> ScriptReply:
        return self.scripts.bye(self.connection, lease)

    def submitted(self, task: str) -> None:
        self.assign(task)
        self.take(task)
        self.submit(task)

    def entries(self, stream: str) -> list[tuple[str, dict[bytes, bytes]]]:
        """Ids and fields of a stream's entries."""
        found = []
        for entry in _list(self.connection.call("XRANGE", stream, "-", "+")):
            entry_id, fields = _list(entry)
            flat = [item for item in _list(fields) if isinstance(item, bytes)]
            assert isinstance(entry_id, bytes)
            found.append((entry_id.decode(), dict(zip(flat[::2], flat[1::2], strict=True))))
        return found

    def ttl_ms(self, key: str | bytes) -> int:
        ttl = self.connection.call("PTTL", key)
        assert isinstance(ttl, int)
        return ttl

    def field(self, task: str, name: str) -> str:
        value = self.connection.call("HGET", self.keys.task(task), name)
        return value.decode() if isinstance(value, bytes) else ""


def script_steps(bench: LinkBench) -> Iterator[tuple[Callable[[], object], list[tuple[str, str]]]]:
    """Yield calls that together run every branch of every script, with the messages each must publish."""
    abort, notice, successor = bench.keys.abort, bench.keys.notice, Lease(name="agent", instance="a2")
    yield lambda: bench.assign("t1"), []
    yield lambda: bench.take("t1"), []
    yield lambda: bench.refuse("t1", "BLOB_MISSING"), []
    yield lambda: bench.assign("t1", lost=bench.field("t1", "result")), []
    yield lambda: bench.submit("t1"), []
    yield lambda: bench.assign("t1", lost=bench.field("t1", "result")), [(notice, "resend t1")]
    yield lambda: bench.submit("t1", "s2"), []
    yield lambda: bench.beat(bench.cj, "t1"), []
    yield lambda: bench.settle("t1"), [(notice, "accepted t1")]
    yield lambda: bench.assign("t2"), []
    yield lambda: bench.assign("t3", expected="t2"), [(abort, "abort t2")]
    yield lambda: bench.take("t3"), []
    yield lambda: bench.refuse("t3", "BAD_TASK_DATA"), []
    yield lambda: bench.submitted("t4"), []
    yield lambda: bench.settle("t4", "REJECTED"), [(notice, "rejected t4")]
    yield lambda: bench.abort("t5", bench.cj), [(abort, "abort t5")]
    yield lambda: bench.abort("t5", bench.cj), []
    yield lambda: setattr(bench, "agent", bench.start(successor)), [(notice, "hello agent <epoch>")]
    yield lambda: bench.bury(bench.agent, bench.keys.tasks, "1-1"), []
    yield lambda: bench.bye(bench.cj), [(notice, "bye cj")]
    yield lambda: bench.bye(bench.agent), [(notice, "bye agent")]
    yield lambda: bench.bye(bench.agent), []


def _list(reply: RedisReply) -> list[RedisReply]:
    assert isinstance(reply, list)
    return reply
