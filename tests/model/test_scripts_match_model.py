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

from tests.model.compared_link import TASKS, ComparedLink
from tests.model.link_model import Instance
from tests.support.redis_server import kinds

tasks = st.sampled_from(TASKS)
submit_ids = st.sampled_from(("s1", "s2", "s3"))
#: index of the instance of a role that runs the step: mostly the newest
instance_indexes = st.sampled_from((-1, -1, -1, 0, 1))


class ScriptsMatchModel(RuleBasedStateMachine):
    """Agents, CJs and operators that run any step at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.server = Server.connect(client=fakeredis.FakeRedis(server=fakeredis.FakeServer()))
        self.link = ComparedLink(self.server.connection("any"), "flare")
        self.agents: list[Instance] = []
        self.cjs: list[Instance] = []

    def teardown(self) -> None:
        self.link.connection.close()
        self.server.close()

    @initialize()
    def both_start(self) -> None:
        self.start("agent")
        self.start("cj")

    @rule(role=st.sampled_from(("agent", "cj")))
    def start(self, role: str) -> None:
        instances = self.agents if role == "agent" else self.cjs
        instances.append(self.link.hello(Instance(role, f"{role}{len(instances)}", 0)))

    @rule(role=st.sampled_from(("agent", "cj")), index=instance_indexes)
    def say_hello_again(self, role: str, index: int) -> None:
        instances = self.agents if role == "agent" else self.cjs
        instance = instances[index % len(instances)]
        if instance.epoch:
            assert self.link.hello(instance).epoch == instance.epoch

    @rule(index=instance_indexes, task=tasks, knows_open_task=st.booleans(), payload_lost=st.booleans())
    def assign(self, index: int, task: str, knows_open_task: bool, payload_lost: bool) -> None:
        lost = self.link.state.ledger(task).result if payload_lost else ""
        self.link.assign(self._cj(index), task, self.link.state.task if knows_open_task else "", lost)

    @rule(index=instance_indexes, task=tasks)
    def take(self, index: int, task: str) -> None:
        self.link.take(self._agent(index), task)

    @rule(
        index=instance_indexes,
        task=tasks,
        rc=st.sampled_from(("BLOB_MISSING", "BAD_REQUEST_DATA", "EXECUTION_EXCEPTION")),
    )
    def refuse(self, index: int, task: str, rc: str) -> None:
        self.link.refuse(self._agent(index), task, rc)

    @rule(index=instance_indexes, task=st.sampled_from(("", *TASKS)), submit_id=submit_ids)
    def submit(self, index: int, task: str, submit_id: str) -> None:
        self.link.submit(self._agent(index), task, f"{submit_id}-{task}")

    @rule(index=instance_indexes, task=tasks, status=st.sampled_from((ACCEPTED, ACCEPTED, REJECTED)))
    def settle(self, index: int, task: str, status: str) -> None:
        self.link.settle(self._cj(index), task, status)

    @precondition(lambda self: self.link.state.task)
    @rule(index=instance_indexes, submit_id=submit_ids)
    def finish_the_open_task(self, index: int, submit_id: str) -> None:
        task = self.link.state.task
        self.link.take(self._agent(index), task)
        self.link.submit(self._agent(index), task, f"{submit_id}-{task}")

    @precondition(lambda self: self.link.state.task)
    @rule(index=instance_indexes)
    def miss_the_payload_of_the_open_task(self, index: int) -> None:
        task = self.link.state.task
        self.link.take(self._agent(index), task)
        self.link.refuse(self._agent(index), task, "BLOB_MISSING")

    @rule(index=instance_indexes, task=tasks, operator=st.booleans())
    def abort(self, index: int, task: str, operator: bool) -> None:
        self.link.abort(None if operator else self._cj(index), task)

    @rule(agent=st.booleans(), index=instance_indexes, task=st.sampled_from(("", *TASKS)))
    def beat(self, agent: bool, index: int, task: str) -> None:
        self.link.beat(self._agent(index) if agent else self._cj(index), task)

    @rule(agent=st.booleans(), index=instance_indexes)
    def bye(self, agent: bool, index: int) -> None:
        self.link.bye(self._agent(index) if agent else self._cj(index))

    @rule(task=tasks)
    def expire(self, task: str) -> None:
        self.link.expire(task)

    @rule(nth=st.integers(0, 9))
    def lose_everything(self, nth: int) -> None:
        if not nth:
            self.link.lose_everything()

    def _agent(self, index: int) -> Instance:
        return self.agents[index % len(self.agents)]

    def _cj(self, index: int) -> Instance:
        return self.cjs[index % len(self.cjs)]


TestScriptsMatchModel = ScriptsMatchModel.TestCase
TestScriptsMatchModel.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def walk(link: ComparedLink, rng: random.Random, steps: int) -> set[str]:
    """Run random steps; return the statuses that tasks had."""
    agents, cjs = ([link.hello(Instance(role, f"{role}0", 0))] for role in ("agent", "cj"))
    seen: set[str] = set()

    def choose(instances: list[Instance]) -> Instance:
        return instances[-1] if rng.random() < 0.8 else rng.choice(instances)

    def start(instances: list[Instance]) -> None:
        role = instances[0].role
        instances.append(link.hello(Instance(role, f"{role}{len(instances)}", 0)))

    def assign() -> None:
        task = rng.choice(TASKS)
        lost = link.state.ledger(task).result if rng.random() < 0.5 else ""
        link.assign(choose(cjs), task, rng.choice(("", link.state.task)), lost)

    def submit() -> None:
        task = link.state.task if rng.random() < 0.7 else rng.choice(TASKS)
        link.submit(choose(agents), task, f"s{rng.randrange(3)}-{task}")

    steps_and_weights: list[tuple[float, Callable[[], object]]] = [
        (5, assign),
        (5, submit),
        (5, lambda: link.take(choose(agents), rng.choice((link.state.task or "t1", *TASKS)))),
        (5, lambda: link.settle(choose(cjs), link.state.task or "t1", rng.choice((ACCEPTED, ACCEPTED, REJECTED)))),
        (
            3,
            lambda: link.refuse(choose(agents), link.state.task or "t1", rng.choice(("BLOB_MISSING", "BAD_TASK_DATA"))),
        ),
        (1, lambda: link.abort(rng.choice((None, choose(cjs))), rng.choice(TASKS))),
        (2, lambda: link.beat(choose(rng.choice((agents, cjs))), rng.choice(("", *TASKS)))),
        (3, lambda: link.hello(rng.choice((agents, cjs))[-1])),
        (0.5, lambda: start(rng.choice((agents, cjs)))),
        (0.5, lambda: link.bye(choose(rng.choice((agents, cjs))))),
        (3, lambda: link.expire(rng.choice(TASKS))),
        (0.2, link.lose_everything),
    ]
    for _ in range(steps):
        rng.choices([step for _, step in steps_and_weights], [weight for weight, _ in steps_and_weights])[0]()
        seen |= {ledger.status for _, ledger in link.state.ledgers if ledger.status}
    link.lose_everything()
    return seen


ALL_STATUSES = {"NEW", "FETCHED", "SUBMITTED", "ACCEPTED", "REJECTED", "ABORTED"}


def test_a_random_walk_on_the_embedded_server(server_url: str) -> None:
    with Server.connect(server_url) as server, server.borrow("any") as connection:
        assert walk(ComparedLink(connection, f"t{uuid.uuid4().hex[:12]}"), random.Random(1), 600) == ALL_STATUSES


def test_a_random_walk_on_redis_70() -> None:
    with kinds.redis70() as node, Server.connect(node.url) as server, server.borrow("any") as connection:
        assert walk(ComparedLink(connection, "flare"), random.Random(1), 600) == ALL_STATUSES


@pytest.mark.parametrize("seed", range(2))
def test_a_random_walk_on_fakeredis(seed: int) -> None:
    fake = fakeredis.FakeRedis(server=fakeredis.FakeServer())
    with Server.connect(client=fake) as server, server.borrow("any") as connection:
        assert walk(ComparedLink(connection, "flare"), random.Random(seed), 300) == ALL_STATUSES
