"""The waiting room: one request of each client, looked after by one thread at a time, no call lost."""

from __future__ import annotations

from typing import Any

from redflare_workers.apis.client import Client
from redflare_workers.server.job.parked_requests import ParkedRequests

A = Client("a", "1")


def request() -> Any:
    return object()


def test_a_client_waits_with_its_newest_request() -> None:
    room, first, second = ParkedRequests(), request(), request()
    assert room.enter(A, first) is None
    replaced = room.enter(A, second)
    assert replaced is not None
    assert replaced.request is first
    assert len(room) == 1


def test_one_thread_asks_for_a_client_and_a_call_meanwhile_makes_it_ask_again() -> None:
    room = ParkedRequests()
    room.enter(A, request())
    waiting = room.call("a")
    assert waiting is not None
    assert room.call("a") is None
    assert room.wait_on(waiting)
    assert not room.wait_on(waiting)
    assert room.call("a") is waiting


def test_who_is_answered_has_left_and_only_once() -> None:
    room = ParkedRequests()
    room.enter(A, request())
    waiting = room.call("a")
    assert waiting is not None
    assert room.leave(waiting)
    assert not room.leave(waiting)
    assert room.call("a") is None


def test_a_request_that_was_replaced_cannot_be_answered_and_the_newer_one_can_be_called() -> None:
    room = ParkedRequests()
    room.enter(A, request())
    older = room.call("a")
    assert older is not None
    room.enter(A, request())
    assert not room.leave(older)
    newer = room.call("a")
    assert newer is not None
    assert newer is not older
    assert room.leave(newer)


def test_names_are_those_who_wait() -> None:
    room = ParkedRequests()
    room.enter(A, request())
    room.enter(Client("b", "1"), request())
    assert sorted(room.among(None)) == ["a", "b"]
    assert room.among({"b", "c"}) == ["b"]
    assert {waiting.client.name for waiting in room.empty()} == {"a", "b"}
    assert room.among(None) == []
