"""A task's callback lock: a reentrant lock whose waiters can be released."""

from __future__ import annotations

import threading

import pytest
from redflare_workers.communicator.callbacks import CallbackLock

from tests.support.calls import in_thread
from tests.support.waiting import wait_until


def waiting(lock: CallbackLock) -> int:
    return len(lock._free._waiters)  # type: ignore[attr-defined]


def test_the_thread_that_has_it_may_take_it_again() -> None:
    lock = CallbackLock()
    with lock, lock:
        assert lock.acquire_unless_closed()
        lock.release()
        assert lock.held_by_me
    assert not lock.held_by_me


def test_another_thread_waits_until_it_is_released_as_often_as_it_was_taken() -> None:
    lock = CallbackLock()
    holders: list[str] = []

    def other() -> None:
        with lock:
            holders.append("other")

    lock.acquire()
    lock.acquire()
    thread = in_thread(other)
    wait_until(lambda: waiting(lock))
    lock.release()
    holders.append("first")
    lock.release()
    thread.join()
    assert holders == ["first", "other"]


def test_it_is_not_waited_for_when_that_is_not_wanted() -> None:
    lock = CallbackLock()
    answers: list[bool] = []
    with lock:
        in_thread(lambda: answers.extend([lock.acquire(blocking=False), lock.acquire(timeout=0.001)])).join()
    assert answers == [False, False]


def test_only_the_thread_that_has_it_may_release_it() -> None:
    with pytest.raises(RuntimeError, match="by the thread that holds it"):
        CallbackLock().release()


def test_closing_it_releases_waiting_threads() -> None:
    lock = CallbackLock()
    answers: list[bool] = []
    with lock:
        threads = [in_thread(lambda: answers.append(lock.acquire_unless_closed())) for _ in range(5)]
        wait_until(lambda: waiting(lock) == 5)
        lock.close()
        for thread in threads:
            thread.join()
    assert answers == [False] * 5
    assert not lock.acquire_unless_closed()


def test_a_closed_one_can_still_be_acquired_when_it_is_free() -> None:
    lock = CallbackLock()
    lock.acquire()
    lock.close()
    done = threading.Event()

    def last() -> None:
        with lock:
            done.set()

    thread = in_thread(last)
    assert not done.is_set()
    lock.release()
    thread.join()
    assert done.is_set()


def test_the_thread_that_has_it_can_take_it_again_when_it_is_closed() -> None:
    lock = CallbackLock()
    with lock:
        lock.close()
        assert lock.acquire_unless_closed()
        lock.release()
    assert "closed" in repr(lock)


def test_many_threads_have_it_one_at_a_time() -> None:
    lock = CallbackLock()
    inside = most = 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(200):
            with lock:
                inside += 1
                most = max(most, inside)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
