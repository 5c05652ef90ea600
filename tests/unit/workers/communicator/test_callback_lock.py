"""A task's turn: a reentrant lock whose waiters can be sent home."""

from __future__ import annotations

import threading

import pytest
from redflare_workers.communicator.callback_lock import CallbackLock

from tests.support.communicator.scene import in_thread
from tests.support.waiting import wait_until


def waiting(turn: CallbackLock) -> int:
    return len(turn._free._waiters)  # type: ignore[attr-defined]


def test_the_thread_that_has_it_may_take_it_again() -> None:
    turn = CallbackLock()
    with turn, turn:
        assert turn.take()
        turn.release()
        assert turn.mine
    assert not turn.mine


def test_another_thread_waits_until_it_is_released_as_often_as_it_was_taken() -> None:
    turn = CallbackLock()
    order: list[str] = []

    def other() -> None:
        with turn:
            order.append("other")

    turn.acquire()
    turn.acquire()
    thread = in_thread(other)
    wait_until(lambda: waiting(turn))
    turn.release()
    order.append("first")
    turn.release()
    thread.join()
    assert order == ["first", "other"]


def test_it_is_not_waited_for_when_that_is_not_wanted() -> None:
    turn = CallbackLock()
    answers: list[bool] = []
    with turn:
        in_thread(lambda: answers.extend([turn.acquire(blocking=False), turn.acquire(timeout=0.001)])).join()
    assert answers == [False, False]


def test_only_the_thread_that_has_it_may_release_it() -> None:
    with pytest.raises(RuntimeError, match="by the thread that holds it"):
        CallbackLock().release()


def test_closing_it_sends_home_those_who_wait_to_take_part() -> None:
    turn = CallbackLock()
    answers: list[bool] = []
    with turn:
        threads = [in_thread(lambda: answers.append(turn.take())) for _ in range(5)]
        wait_until(lambda: waiting(turn) == 5)
        turn.close()
        for thread in threads:
            thread.join()
    assert answers == [False] * 5
    assert not turn.take()


def test_a_closed_one_can_still_be_acquired_when_it_is_free() -> None:
    turn = CallbackLock()
    turn.acquire()
    turn.close()
    done = threading.Event()

    def last() -> None:
        with turn:
            done.set()

    thread = in_thread(last)
    assert not done.is_set()
    turn.release()
    thread.join()
    assert done.is_set()


def test_the_thread_that_has_it_can_take_it_again_when_it_is_closed() -> None:
    turn = CallbackLock()
    with turn:
        turn.close()
        assert turn.take()
        turn.release()
    assert "closed" in repr(turn)


def test_many_threads_have_it_one_at_a_time() -> None:
    turn = CallbackLock()
    inside = most = 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(200):
            with turn:
                inside += 1
                most = max(most, inside)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
