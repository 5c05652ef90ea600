"""The model and the Lua scripts side by side: each step is run on both; replies and states must be equal."""

from __future__ import annotations

from collections.abc import Callable

from redflare_broker.config.retention import RetentionPolicy
from redflare_broker.keys import Keys
from redflare_broker.scripts import script
from redflare_broker.scripts.lease import Lease
from redflare_broker.scripts.link_scripts import LinkScripts
from redflare_broker.scripts.task_states import settled
from redflare_broker.transport.connection import Connection
from redflare_broker.transport.replies import RedisReply
from redflare_broker.wire.task_entry import Entry

from tests.model import link_model as model
from tests.model.link_model import EMPTY, Instance, LinkState, Reply

TASKS = ("t1", "t2", "t3")
SIDE_FIELDS = ("", "_epoch", "_closed")


class ComparedLink:
    """One link, in Redis and in the model."""

    def __init__(self, connection: Connection, namespace: str) -> None:
        self.connection = connection
        self.keys = Keys(namespace).link("site-1--trainer")
        self.scripts = LinkScripts(keys=self.keys, publish="PUBLISH", policy=RetentionPolicy())
        self.state = EMPTY
        #: ids in the stream of results, by the model's name of the entry
        self.ids: dict[str, str] = {"": ""}

    # -- steps ---------------------------------------------------------------------------------------------------------

    def hello(self, instance: Instance) -> Instance:
        """Return the instance with its new epoch; 0 when it was fenced at its first hello."""
        reply = self.scripts.hello(self.connection, _lease(instance))
        state, expected = model.hello(self.state, instance, reply.number())
        if expected[0] == "NEXT":
            assert expected[1] == reply.number(), "a new epoch is the clock's, or one more than the highest"
            instance = instance._replace(epoch=reply.number())
            state, expected = model.hello(state, instance, 0)
        self._assert_equal(state, expected, (reply.status, reply.number()))
        return instance._replace(epoch=reply.number()) if reply.status == "OK" else instance

    def bye(self, instance: Instance) -> None:
        self._step(model.bye(self.state, instance), lambda: self.scripts.bye(self.connection, _lease(instance)))

    def beat(self, instance: Instance, task: str) -> None:
        sent = self.scripts.beat_command(_lease(instance), b"{}", 60_000, task or None)

        def run() -> script.ScriptReply:
            reply = script.parse_reply("link/beat", script.run_pipeline(self.connection, [sent])[0])
            open_task, status, _, _, peer, closed, _ = reply.rest or (None,) * 7
            seen = (open_task, status, peer, int(closed != b"0"), reply.number(6)) if reply.rest else ()
            return script.ScriptReply(status=reply.status, rest=seen)

        self._step(model.beat(self.state, instance, task), run)

    def assign(self, instance: Instance, task: str, expected: str, lost: str) -> None:
        def run() -> script.ScriptReply:
            entry = Entry(
                topic="get_task", task_id=task, task_name="train", session=instance.name, sender=instance.name
            )
            lost_id = self.ids.get(lost, lost)
            return self.scripts.assign(
                self.connection, _lease(instance), entry, size=5, expected=expected, lost=lost_id
            )

        self._step(model.assign(self.state, instance, task, expected, lost), run)

    def take(self, instance: Instance, task: str) -> None:
        self._step(
            model.take(self.state, instance, task), lambda: self.scripts.take(self.connection, _lease(instance), task)
        )

    def refuse(self, instance: Instance, task: str, rc: str) -> None:
        run = lambda: self.scripts.refuse(self.connection, _lease(instance), task, rc, "why")  # noqa: E731
        self._step(model.refuse(self.state, instance, task, rc), run)

    def submit(self, instance: Instance, task: str, submit_id: str) -> None:
        entry = Entry(topic="submit_result", task_id=task, rc="OK", sender=instance.name, epoch=instance.epoch)
        run = lambda: self.scripts.submit(self.connection, _lease(instance), entry, submit_id=submit_id, size=7)  # noqa: E731
        self._step(model.submit(self.state, instance, task, submit_id), run)

    def settle(self, instance: Instance, task: str, status: str) -> None:
        run = lambda: self.scripts.settle(self.connection, _lease(instance), task, status, "why")  # noqa: E731
        self._step(model.settle(self.state, instance, task, status), run)

    def abort(self, instance: Instance | None, task: str) -> None:
        run = lambda: self.scripts.abort(self.connection, _lease(instance) if instance else None, task, "why")  # noqa: E731
        self._step(model.abort(self.state, instance, task), run)

    def lose_everything(self) -> None:
        if found := self._all_keys():
            self.connection.call("DEL", *found)
        self.state, self.ids = EMPTY, {"": ""}

    def expire(self, task: str) -> None:
        """Let the ledger of a settled task expire."""
        if settled(self.state.ledger(task).status):
            self.connection.call("DEL", self.keys.task(task))
            self.state = self.state._replace(ledgers=tuple(pair for pair in self.state.ledgers if pair[0] != task))

    # -- comparison ----------------------------------------------------------------------------------------------------

    def _step(self, expected: tuple[LinkState, Reply], run: Callable[[], script.ScriptReply]) -> None:
        """Run the script, compare, and run it again: the reply is the same, and no key changes."""
        first = run()
        self._assert_equal(*expected, self._reply_of(first))
        before = self._dump()
        assert run() == first
        assert self._dump() == before

    def _reply_of(self, reply: script.ScriptReply) -> Reply:
        numbers = [isinstance(part, int) for part in reply.rest]
        return (reply.status, *(reply.number(at) if number else reply.text(at) for at, number in enumerate(numbers)))

    def _assert_equal(self, state: LinkState, expected: Reply, reply: Reply) -> None:
        """Check that reply and state in Redis are those of the model."""
        known = {entry.ref for entry in self.state.results}
        self.state = state
        entries = [_fields(entry) for entry in _list(self.connection.call("XRANGE", self.keys.results, "-", "+"))]
        assert [(fields["topic"], fields.get("task_id", "")) for fields in entries] == [
            entry[:2] for entry in state.results
        ]
        for entry, fields in zip(state.results, entries, strict=True):
            if entry.ref not in known:
                self.ids[entry.ref] = fields["id"]
            assert self.ids[entry.ref] == fields["id"]
        assert reply == tuple(self.ids.get(str(part), part) for part in expected)
        tasks = [
            _fields(entry)["task_id"] for entry in _list(self.connection.call("XRANGE", self.keys.tasks, "-", "+"))
        ]
        assert tuple(tasks) == state.tasks
        assert self.connection.call("XLEN", self.keys.dead) == state.dead
        self._assert_link_equal(state)
        for task in TASKS:
            self._assert_ledger_equal(task)
        self._assert_all_keys_expire()

    def _assert_link_equal(self, state: LinkState) -> None:
        link = self._hash(self.keys.link)
        for role in ("agent", "cj"):
            name, epoch, closed = (link.get(role + field, "") for field in SIDE_FIELDS)
            assert (name, int(epoch or 0), closed not in ("", "0")) == state.side(role)
        assert int(link.get("agent_left") or 0) == state.left
        found = [link.get(field, "") for field in ("task", "last", "kept_task", "kept")]
        assert found == [state.task, state.last, state.kept_task, self.ids[state.kept]]

    def _assert_ledger_equal(self, task: str) -> None:
        ledger, known = self._hash(self.keys.task(task)), self.state.ledger(task)
        assert ledger.get("status") == known.status
        numbers = [int(ledger.get(field) or 0) for field in ("attempt", "died", "epoch")]
        assert (*numbers, ledger.get("submit_id", ""), ledger.get("lost", "")) == known[1:6]
        assert ledger.get("result", "") == self.ids[known.result]

    def _assert_all_keys_expire(self) -> None:
        policy = self.scripts.policy
        for key in self._all_keys():
            ttl = self.connection.call("PTTL", key)
            assert isinstance(ttl, int)
            assert 0 < ttl <= policy.retention_ms, f"{key!r} has the TTL {ttl}"
        for task in TASKS:
            if status := self.state.ledger(task).status:
                ttl = self.connection.call("PTTL", self.keys.task(task))
                assert isinstance(ttl, int)
                assert settled(status) == (ttl <= policy.settled_ms), f"{task} is {status}, its ledger's TTL {ttl}"
        ttl = self.connection.call("PTTL", self.keys.link)
        assert isinstance(ttl, int)
        assert self.state == EMPTY or self.state.over == (ttl <= policy.settled_ms), (
            f"{self.state}, the link's TTL {ttl}"
        )

    def _dump(self) -> dict[bytes, RedisReply]:
        """The content of every key."""
        readers = {b"hash": ("HGETALL",), b"stream": ("XRANGE", "-", "+"), b"string": ("GET",)}
        found = {}
        for key in self._all_keys():
            kind = self.connection.call("TYPE", key)
            assert isinstance(kind, bytes)
            verb, *rest = readers[kind]
            found[key] = self.connection.call(verb, key, *rest)
        return found

    def _all_keys(self) -> list[bytes]:
        return [
            key for key in _list(self.connection.call("KEYS", f"{self.keys.namespace}:*")) if isinstance(key, bytes)
        ]

    def _hash(self, key: str) -> dict[str, str]:
        return _pairs(self.connection.call("HGETALL", key))


def _lease(instance: Instance) -> Lease:
    return Lease(name=instance.role, instance=instance.name, epoch=instance.epoch)


def _list(reply: RedisReply) -> list[RedisReply]:
    assert isinstance(reply, list)
    return reply


def _fields(entry: RedisReply) -> dict[str, str]:
    entry_id, fields = _list(entry)
    assert isinstance(entry_id, bytes)
    return {**_pairs(fields), "id": entry_id.decode()}


def _pairs(reply: RedisReply) -> dict[str, str]:
    texts = [item.decode() for item in _list(reply) if isinstance(item, bytes)]
    return dict(zip(texts[::2], texts[1::2], strict=True))
