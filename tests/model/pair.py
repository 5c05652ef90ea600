"""The model and the Lua scripts side by side: each step is run on both, and then both must say and look the same."""

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
from tests.model.link_model import EMPTY, Answer, Db, Me

TASKS = ("t1", "t2", "t3")
SIDE_FIELDS = ("", "_epoch", "_closed")


class Pair:
    """One link, twice."""

    def __init__(self, connection: Connection, namespace: str) -> None:
        self.connection = connection
        self.keys = Keys(namespace).link("site-1--trainer")
        self.scripts = LinkScripts(keys=self.keys, publish="PUBLISH", policy=RetentionPolicy())
        self.db = EMPTY
        #: what the model calls an entry of the stream of results, and the id it has
        self.ids: dict[str, str] = {"": ""}

    # -- steps ---------------------------------------------------------------------------------------------------------

    def hello(self, me: Me) -> Me:
        """Returns the instance with the epoch it has from now on; 0 when it was fenced at its first hello."""
        said = self.scripts.hello(self.connection, _lease(me))
        db, expected = model.hello(self.db, me, said.number())
        if expected[0] == "NEXT":
            assert expected[1] == said.number(), "a new epoch is the clock's, or one more than the highest"
            me = me._replace(epoch=said.number())
            db, expected = model.hello(db, me, 0)
        self._same(db, expected, (said.status, said.number()))
        return me._replace(epoch=said.number()) if said.status == "OK" else me

    def bye(self, me: Me) -> None:
        self._step(model.bye(self.db, me), lambda: self.scripts.bye(self.connection, _lease(me)))

    def beat(self, me: Me, task: str) -> None:
        sent = self.scripts.beat_command(_lease(me), b"{}", 60_000, task or None)

        def run() -> script.ScriptReply:
            said = script.parse_reply("link/beat", self.connection.pipeline([script.eval_command(sent)])[0])
            open_task, status, _, _, peer, closed = said.rest or (None,) * 6
            return script.ScriptReply(
                status=said.status, rest=(open_task, status, peer, int(closed != b"0")) if said.rest else ()
            )

        self._step(model.beat(self.db, me, task), run)

    def assign(self, me: Me, task: str, expected: str, lost: str) -> None:
        def run() -> script.ScriptReply:
            entry = Entry(topic="get_task", task_id=task, task_name="train", session=me.name, sender=me.name)
            real = self.ids.get(lost, lost)
            return self.scripts.assign(self.connection, _lease(me), entry, size=5, expected=expected, lost=real)

        self._step(model.assign(self.db, me, task, expected, lost), run)

    def take(self, me: Me, task: str) -> None:
        self._step(model.take(self.db, me, task), lambda: self.scripts.take(self.connection, _lease(me), task))

    def refuse(self, me: Me, task: str, rc: str) -> None:
        run = lambda: self.scripts.refuse(self.connection, _lease(me), task, rc, "why")  # noqa: E731
        self._step(model.refuse(self.db, me, task, rc), run)

    def submit(self, me: Me, task: str, submit_id: str) -> None:
        entry = Entry(topic="submit_result", task_id=task, rc="OK", sender=me.name, epoch=me.epoch)
        run = lambda: self.scripts.submit(self.connection, _lease(me), entry, submit_id=submit_id, size=7)  # noqa: E731
        self._step(model.submit(self.db, me, task, submit_id), run)

    def settle(self, me: Me, task: str, verdict: str) -> None:
        run = lambda: self.scripts.settle(self.connection, _lease(me), task, verdict, "why")  # noqa: E731
        self._step(model.settle(self.db, me, task, verdict), run)

    def abort(self, me: Me | None, task: str) -> None:
        run = lambda: self.scripts.abort(self.connection, _lease(me) if me else None, task, "why")  # noqa: E731
        self._step(model.abort(self.db, me, task), run)

    def lose_everything(self) -> None:
        if found := self._all_keys():
            self.connection.call("DEL", *found)
        self.db, self.ids = EMPTY, {"": ""}

    def expire(self, task: str) -> None:
        """The ledger of a settled task reaches the end of its life."""
        if settled(self.db.ledger(task).status):
            self.connection.call("DEL", self.keys.task(task))
            self.db = self.db._replace(ledgers=tuple(pair for pair in self.db.ledgers if pair[0] != task))

    # -- comparison ----------------------------------------------------------------------------------------------------

    def _step(self, expected: tuple[Db, Answer], run: Callable[[], script.ScriptReply]) -> None:
        """Run the script, compare, run it again: the same answer, and not a byte is changed."""
        first = run()
        self._same(*expected, self._said(first))
        before = self._everything()
        assert run() == first
        assert self._everything() == before

    def _said(self, said: script.ScriptReply) -> Answer:
        numbers = [isinstance(part, int) for part in said.rest]
        return (said.status, *(said.number(at) if number else said.text(at) for at, number in enumerate(numbers)))

    def _same(self, db: Db, expected: Answer, said: Answer) -> None:
        """The state in Redis is the model's, and the answer is, too."""
        there = {letter.ref for letter in self.db.results}
        self.db = db
        letters = [_fields(entry) for entry in _list(self.connection.call("XRANGE", self.keys.results, "-", "+"))]
        assert [(fields["topic"], fields.get("task_id", "")) for fields in letters] == [x[:2] for x in db.results]
        for letter, fields in zip(db.results, letters, strict=True):
            if letter.ref not in there:
                self.ids[letter.ref] = fields["id"]
            assert self.ids[letter.ref] == fields["id"]
        assert said == tuple(self.ids.get(str(part), part) for part in expected)
        tasks = [
            _fields(entry)["task_id"] for entry in _list(self.connection.call("XRANGE", self.keys.tasks, "-", "+"))
        ]
        assert tuple(tasks) == db.tasks
        assert self.connection.call("XLEN", self.keys.dead) == db.dead
        self._same_link(db)
        for task in TASKS:
            self._same_ledger(task)
        self._all_keys_end()

    def _same_link(self, db: Db) -> None:
        link = self._hash(self.keys.link)
        for role in ("agent", "cj"):
            name, epoch, closed = (link.get(role + field, "") for field in SIDE_FIELDS)
            assert (name, int(epoch or 0), closed not in ("", "0")) == db.side(role)
        found = [link.get(field, "") for field in ("task", "kept_task", "kept")]
        assert found == [db.task, db.kept_task, self.ids[db.kept]]

    def _same_ledger(self, task: str) -> None:
        ledger, known = self._hash(self.keys.task(task)), self.db.ledger(task)
        assert ledger.get("status") == known.status
        numbers = [int(ledger.get(field) or 0) for field in ("attempt", "epoch")]
        assert (*numbers, ledger.get("submit_id", ""), ledger.get("lost", "")) == known[1:5]
        assert ledger.get("result", "") == self.ids[known.result]

    def _all_keys_end(self) -> None:
        policy = self.scripts.policy
        for key in self._all_keys():
            left = self.connection.call("PTTL", key)
            assert isinstance(left, int)
            assert 0 < left <= policy.retention_ms, f"{key!r} has the TTL {left}"
        for task in TASKS:
            if status := self.db.ledger(task).status:
                left = self.connection.call("PTTL", self.keys.task(task))
                assert isinstance(left, int)
                assert settled(status) == (left <= policy.settled_ms), f"{task} is {status}, its ledger's TTL {left}"
        left = self.connection.call("PTTL", self.keys.link)
        assert isinstance(left, int)
        assert self.db == EMPTY or self.db.over == (left <= policy.settled_ms), f"{self.db}, the link's TTL {left}"

    def _everything(self) -> dict[bytes, RedisReply]:
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


def _lease(me: Me) -> Lease:
    return Lease(name=me.role, instance=me.name, epoch=me.epoch)


def _list(reply: RedisReply) -> list[RedisReply]:
    assert isinstance(reply, list)
    return reply


def _fields(entry: RedisReply) -> dict[str, str]:
    entry_id, fields = _list(entry)
    assert isinstance(entry_id, bytes)
    return {**_pairs(fields), "id": entry_id.decode()}


def _pairs(reply: RedisReply) -> dict[str, str]:
    words = [word.decode() for word in _list(reply) if isinstance(word, bytes)]
    return dict(zip(words[::2], words[1::2], strict=True))
