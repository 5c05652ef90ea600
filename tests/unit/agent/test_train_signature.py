"""A training function gets its task, and its site if it has a place for it; any other signature is refused at once."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from redflare_agent import IPCAgent, Task, TaskResult, serve, trainer
from redflare_agent.serve import function_of_task
from redflare_broker.errors import ConfigError
from redflare_broker.testing.plugin import LinkUnderTest
from redflare_workers.agent_run.watched_train import WatchedTrain


def result(*seen: object) -> TaskResult:
    return TaskResult({"seen": list(seen)}, None)


def of_task(task: Task) -> TaskResult:
    return result(task.site)


def of_both(task: Task, site: str) -> TaskResult:
    return result(site)


def of_any(*args: Any) -> TaskResult:
    assert len(args) == 1
    return result(args[0].site)


def second_of_another_name(task: Task, where: str) -> TaskResult:
    return result(where)


def site_by_name(task: Task, *, site: str) -> TaskResult:
    return result(site)


def site_with_a_default(task: Task, site: str = "nowhere") -> TaskResult:
    return result(site)


def rate_with_a_default(task: Task, rate: float = 0.5) -> TaskResult:
    assert rate == 0.5
    return result(task.site)


def with_a_rate(rate: float, task: Task, site: str) -> TaskResult:
    assert rate == 0.5
    return result(site)


@functools.wraps(of_both)
def wrapped(*args: Any, **kwargs: Any) -> TaskResult:
    return of_both(*args, **kwargs)


class Model:
    def __call__(self, task: Task, site: str) -> TaskResult:
        return result(site)

    def train(self, task: Task, site: str) -> TaskResult:
        return result(site)


FUNCTIONS = {
    "task": of_task,
    "task and site": of_both,
    "any arguments": of_any,
    "a second one": second_of_another_name,
    "site by name": site_by_name,
    "site with a default": site_with_a_default,
    "another one with a default": rate_with_a_default,
    "partial": functools.partial(with_a_rate, 0.5),
    "wrapped": wrapped,
    "object": Model(),
    "method": Model().train,
    "decorated": trainer()(of_both),
}


@pytest.mark.parametrize("train", FUNCTIONS.values(), ids=FUNCTIONS.keys())
def test_a_function_gets_the_site_in_whatever_form_it_asks_for_it(train: Any) -> None:
    function = function_of_task(train)
    assert function(Task("train", "t-1", {}, None, site="berlin")).meta == {"seen": ["berlin"]}
    assert function_of_task(function) is function


def test_a_watched_function_gets_it_too_and_keeps_its_name() -> None:
    watched = WatchedTrain(function_of_task(of_both), abort_grace=1, stop_grace=1)
    assert function_of_task(watched)(Task("train", "t-1", {}, None, site="berlin")).meta == {"seen": ["berlin"]}
    assert watched.__name__ == "of_both"  # type: ignore[attr-defined]
    watched.close()


async def of_task_later(task: Task) -> TaskResult:
    return result(task.site)


def piecemeal(task: Task) -> Iterator[TaskResult]:
    yield result(task.site)


WRONG = {
    "no argument": (lambda: None, "<lambda> must be {}, but its signature is ()"),
    "three": (lambda task, site, rate: None, "<lambda> must be {}, but its signature is (task, site, rate)"),
    "by name alone": (lambda *, task: None, "<lambda> must be {}, but its signature is (*, task)"),
    "no function": ({"w": 1}, "train must be {}, but is a dict"),
    "a class": (Model, "Model must be {}, but is a class: give an object of it instead"),
    "async": (
        of_task_later,
        "of_task_later must be {}, but is an async function, of which a call runs nothing; write it with `def`, and "
        "`asyncio.run` inside it",
    ),
    "a generator": (
        piecemeal,
        "piecemeal must be {}, but is a generator function, of which a call runs nothing; write it without `yield`",
    ),
}


@pytest.mark.parametrize(("train", "why"), WRONG.values(), ids=WRONG.keys())
def test_another_signature_is_refused_before_a_task_is_taken(
    redflare_link: LinkUnderTest, train: Any, why: str
) -> None:
    expected = why.format("a function train(task) or train(task, site)")
    with IPCAgent(**redflare_link.agent_args) as agent, redflare_link.cj() as cj:
        cj.send("train", 7)
        with pytest.raises(ConfigError) as refused:
            serve(train, agent)
        assert str(refused.value) == expected
        task = agent.get_task(10)
        assert task is not None
        assert task.data == 7
    with pytest.raises(ConfigError) as refused:
        trainer()(train)
    assert str(refused.value) == expected


def test_a_task_knows_the_site_of_the_agent_that_has_it(redflare_link: LinkUnderTest) -> None:
    with IPCAgent(**redflare_link.agent_args) as agent, redflare_link.cj() as cj:
        serving = threading.Thread(target=serve, args=[of_task, agent])
        serving.start()
        assert cj.send("train").result(timeout=10).meta == {"seen": ["site-1"]}
        agent.stop()
        serving.join(10)
