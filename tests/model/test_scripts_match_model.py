"""The Lua scripts do what the model does: any steps, by any instance, in any order; compared after each of them."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable

import fakeredis
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from redflare_broker.scripts.task_states import ACCEPTED, REJECTED
from redflare_broker.transport.server import Server

from tests.model.link_model import Me
from tests.model.pair import TASKS, Pair
from tests.support.redis_server import kinds

tasks = st.sampled_from(TASKS)
submit_ids = st.sampled_from(("s1", "s2", "s3"))
#: which of the instances of a role that were started acts: mostly the newest
whose = st.sampled_from((-1, -1, -1, 0, 1))


class ScriptsMatchModel(RuleBasedStateMachine):
    """Agents, CJs and operators that do whatever comes to their minds."""

    def __init__(self) -> None:
        super().__init__()
        self.server = Server.connect(client=fakeredis.FakeRedis(server=fakeredis.FakeServer()))
        self.pair = Pair(self.server.connection("any"), "flare")
        self.agents: list[Me] = []
        self.cjs: list[Me] = []

    def teardown(self) -> None:
        self.pair.connection.close()
        self.server.close()

    @initialize()
    def both_start(self) -> None:
        self.start("agent")
        self.start("cj")

    @rule(role=st.sampled_from(("agent", "cj")))
    def start(self, role: str) -> None:
        instances = self.agents if role == "agent" else self.cjs
        instances.append(self.pair.hello(Me(role, f"{role}{len(instances)}", 0)))

    @rule(role=st.sampled_from(("agent", "cj")), who=whose)
    def say_hello_again(self, role: str, who: int) -> None:
        instances = self.agents if role == "agent" else self.cjs
        me = instances[who % len(instances)]
        if me.epoch:
            assert self.pair.hello(me).epoch == me.epoch

    @rule(who=whose, task=tasks, knows=st.booleans(), misses=st.booleans())
    def assign(self, who: int, task: str, knows: bool, misses: bool) -> None:
        lost = self.pair.db.ledger(task).result if misses else ""
        self.pair.assign(self._cj(who), task, self.pair.db.task if knows else "", lost)

    @rule(who=whose, task=st.sampled_from(("", *TASKS)))
    def take(self, who: int, task: str) -> None:
        self.pair.take(self._agent(who), task)

    @rule(who=whose, task=tasks, rc=st.sampled_from(("BLOB_MISSING", "BAD_REQUEST_DATA")))
    def refuse(self, who: int, task: str, rc: str) -> None:
        self.pair.refuse(self._agent(who), task, rc)

    @rule(who=whose, task=st.sampled_from(("", *TASKS)), submit_id=submit_ids)
    def submit(self, who: int, task: str, submit_id: str) -> None:
        self.pair.submit(self._agent(who), task, f"{submit_id}-{task}")

    @rule(who=whose, task=tasks, verdict=st.sampled_from((ACCEPTED, ACCEPTED, REJECTED)))
    def settle(self, who: int, task: str, verdict: str) -> None:
        self.pair.settle(self._cj(who), task, verdict)

    @precondition(lambda self: self.pair.db.task)
    @rule(who=whose, submit_id=submit_ids)
    def finish_the_open_task(self, who: int, submit_id: str) -> None:
        task = self.pair.db.task
        self.pair.take(self._agent(who), "")
        self.pair.submit(self._agent(who), task, f"{submit_id}-{task}")

    @precondition(lambda self: self.pair.db.task)
    @rule(who=whose)
    def miss_the_payload_of_the_open_task(self, who: int) -> None:
        task = self.pair.db.task
        self.pair.take(self._agent(who), "")
        self.pair.refuse(self._agent(who), task, "BLOB_MISSING")

    @rule(who=whose, task=tasks, operator=st.booleans())
    def abort(self, who: int, task: str, operator: bool) -> None:
        self.pair.abort(None if operator else self._cj(who), task)

    @rule(agent=st.booleans(), who=whose, task=st.sampled_from(("", *TASKS)))
    def beat(self, agent: bool, who: int, task: str) -> None:
        self.pair.beat(self._agent(who) if agent else self._cj(who), task)

    @rule(agent=st.booleans(), who=whose)
    def bye(self, agent: bool, who: int) -> None:
        self.pair.bye(self._agent(who) if agent else self._cj(who))

    @rule(task=tasks)
    def expire(self, task: str) -> None:
        self.pair.expire(task)

    @rule(sure=st.integers(0, 9))
    def lose_everything(self, sure: int) -> None:
        if not sure:
            self.pair.lose_everything()

    def _agent(self, who: int) -> Me:
        return self.agents[who % len(self.agents)]

    def _cj(self, who: int) -> Me:
        return self.cjs[who % len(self.cjs)]


TestScriptsMatchModel = ScriptsMatchModel.TestCase
TestScriptsMatchModel.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def walk(pair: Pair, dice: random.Random, steps: int) -> set[str]:
    """A random walk through the steps; the statuses a task had on it."""
    agents, cjs = ([pair.hello(Me(role, f"{role}0", 0))] for role in ("agent", "cj"))
    seen: set[str] = set()

    def one(instances: list[Me]) -> Me:
        return instances[-1] if dice.random() < 0.8 else dice.choice(instances)

    def start(instances: list[Me]) -> None:
        role = instances[0].role
        instances.append(pair.hello(Me(role, f"{role}{len(instances)}", 0)))

    def assign() -> None:
        task = dice.choice(TASKS)
        lost = pair.db.ledger(task).result if dice.random() < 0.5 else ""
        pair.assign(one(cjs), task, dice.choice(("", pair.db.task)), lost)

    def submit() -> None:
        task = pair.db.task if dice.random() < 0.7 else dice.choice(TASKS)
        pair.submit(one(agents), task, f"s{dice.randrange(3)}-{task}")

    moves: list[tuple[float, Callable[[], object]]] = [
        (5, assign),
        (5, submit),
        (5, lambda: pair.take(one(agents), dice.choice(("", pair.db.task, *TASKS)))),
        (5, lambda: pair.settle(one(cjs), pair.db.task or "t1", dice.choice((ACCEPTED, ACCEPTED, REJECTED)))),
        (3, lambda: pair.refuse(one(agents), pair.db.task or "t1", dice.choice(("BLOB_MISSING", "BAD_TASK_DATA")))),
        (1, lambda: pair.abort(dice.choice((None, one(cjs))), dice.choice(TASKS))),
        (2, lambda: pair.beat(one(dice.choice((agents, cjs))), dice.choice(("", *TASKS)))),
        (3, lambda: pair.hello(dice.choice((agents, cjs))[-1])),
        (0.5, lambda: start(dice.choice((agents, cjs)))),
        (0.5, lambda: pair.bye(one(dice.choice((agents, cjs))))),
        (3, lambda: pair.expire(dice.choice(TASKS))),
        (0.2, pair.lose_everything),
    ]
    for _ in range(steps):
        dice.choices([move for _, move in moves], [weight for weight, _ in moves])[0]()
        seen |= {ledger.status for _, ledger in pair.db.ledgers if ledger.status}
    pair.lose_everything()
    return seen


ALL = {"NEW", "FETCHED", "SUBMITTED", "ACCEPTED", "REJECTED", "ABORTED"}


def test_the_same_walk_on_the_embedded_server(server_url: str) -> None:
    with Server.connect(server_url) as server, server.borrow("any") as connection:
        assert walk(Pair(connection, f"t{uuid.uuid4().hex[:12]}"), random.Random(1), 600) == ALL


def test_the_same_walk_on_redis_70() -> None:
    with kinds.redis70() as node, Server.connect(node.url) as server, server.borrow("any") as connection:
        assert walk(Pair(connection, "flare"), random.Random(1), 600) == ALL


@pytest.mark.parametrize("seed", range(2))
def test_the_same_walk_on_fakeredis(seed: int) -> None:
    fake = fakeredis.FakeRedis(server=fakeredis.FakeServer())
    with Server.connect(client=fake) as server, server.borrow("any") as connection:
        assert walk(Pair(connection, "flare"), random.Random(seed), 300) == ALL
