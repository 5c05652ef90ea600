"""A pool has few threads while work is quick, and starts another when all are blocked."""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Iterator
from functools import partial

import pytest
from redflare_broker.util.thread_pool import ElasticThreadPool

from tests.support.waiting import wait_until


@pytest.fixture
def pool() -> Iterator[ElasticThreadPool]:
    made = ElasticThreadPool("test-pool", eager=2, idle=0.2)
    yield made
    made.close()


def test_work_is_done_in_threads_of_the_pools_name(pool: ElasticThreadPool) -> None:
    names: list[str] = []
    assert pool.submit(lambda: names.append(threading.current_thread().name))
    wait_until(lambda: names)
    assert names[0].startswith("test-pool-")


def test_work_that_is_quick_needs_few_threads(pool: ElasticThreadPool) -> None:
    names: list[str] = []
    for _ in range(1000):
        pool.submit(lambda: names.append(threading.current_thread().name))
    wait_until(lambda: len(names) == 1000)
    assert len(set(names)) < 10


def _pass_on(awaited: threading.Event, then: threading.Event) -> None:
    if awaited.wait(10):
        then.set()


def test_work_that_waits_for_later_work_gets_it(pool: ElasticThreadPool) -> None:
    steps = [threading.Event() for _ in range(50)]
    for before, after in itertools.pairwise(steps):
        pool.submit(partial(_pass_on, after, before))
    pool.submit(steps[-1].set)
    wait_until(steps[0].is_set)


def test_threads_without_work_end(pool: ElasticThreadPool) -> None:
    done: list[int] = []
    pool.submit(lambda: done.append(1))
    wait_until(lambda: done)
    wait_until(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("test-pool")])
    pool.submit(lambda: done.append(2))
    wait_until(lambda: len(done) == 2)


def test_an_exception_of_the_work_is_logged_and_the_thread_continues(
    pool: ElasticThreadPool, caplog: pytest.LogCaptureFixture
) -> None:
    done: list[int] = []
    pool.submit(lambda: 1 / 0)
    pool.submit(lambda: done.append(1))
    wait_until(lambda: done and "a piece of work failed" in caplog.text)


def test_work_that_calls_exit_costs_no_thread(pool: ElasticThreadPool, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(20):
        pool.submit(sys.exit)
    wait_until(lambda: caplog.text.count("a piece of work failed") == 20)
    wait_until(lambda: "0 busy" in repr(pool))


def test_close_finishes_submitted_work_and_names_threads_that_are_stuck(pool: ElasticThreadPool) -> None:
    release, done = threading.Event(), list[int]()
    pool.submit(lambda: release.wait(10))
    for number in range(20):
        pool.submit(partial(done.append, number))
    stuck = pool.close(timeout=0.3)
    assert len(stuck) == 1
    assert sorted(done) == list(range(20))
    assert not pool.submit(lambda: None)
    release.set()
    assert pool.close() == []


def test_close_waits_for_threads_that_are_made_meanwhile() -> None:
    pool, began, release = ElasticThreadPool("test-pool", eager=1), threading.Event(), threading.Event()
    names: list[str] = []
    left: list[str] = []

    def last() -> None:
        names.append(threading.current_thread().name)
        began.set()
        release.wait(10)

    def first() -> None:
        # the thread that takes this piece makes another for the next, which it waits for
        pool.submit(partial(began.wait, 10))
        pool.submit(last)
        left.extend(pool.close(timeout=0.3))
        release.set()

    pool.submit(first)
    wait_until(release.is_set)
    assert left == names != []


def test_work_of_one_does_not_wait_behind_the_pile_of_another() -> None:
    pool, order, go = ElasticThreadPool("test-fair", eager=1), list[str](), threading.Event()
    pool.submit(go.wait)
    for _ in range(100):
        pool.submit(lambda: order.append("pile"), "site-1")
    pool.submit(lambda: order.append("single"), "site-2")
    go.set()
    assert pool.close() == []
    assert order.index("single") < 10
