"""Parked requests: one of each client, claimed by one thread at a time, no wake-up lost."""

from __future__ import annotations

from typing import Any

from redflare_workers.apis.client import Client
from redflare_workers.server.job.task_handler import ParkedRequests

A = Client("a", "1")


def request() -> Any:
    return object()


def test_a_client_waits_with_its_newest_request() -> None:
    requests, first, second = ParkedRequests(), request(), request()
    assert requests.park(A, first) is None
    replaced = requests.park(A, second)
    assert replaced is not None
    assert replaced.request is first
    assert len(requests) == 1


def test_one_thread_claims_a_request_and_a_claim_meanwhile_makes_it_ask_again() -> None:
    requests = ParkedRequests()
    requests.park(A, request())
    waiting = requests.claim("a")
    assert waiting is not None
    assert requests.claim("a") is None
    assert requests.unclaim(waiting)
    assert not requests.unclaim(waiting)
    assert requests.claim("a") is waiting


def test_a_request_is_removed_once_to_be_answered() -> None:
    requests = ParkedRequests()
    requests.park(A, request())
    waiting = requests.claim("a")
    assert waiting is not None
    assert requests.remove(waiting)
    assert not requests.remove(waiting)
    assert requests.claim("a") is None


def test_a_request_that_was_replaced_cannot_be_answered_and_the_newer_one_can_be_claimed() -> None:
    requests = ParkedRequests()
    requests.park(A, request())
    older = requests.claim("a")
    assert older is not None
    requests.park(A, request())
    assert not requests.remove(older)
    newer = requests.claim("a")
    assert newer is not None
    assert newer is not older
    assert requests.remove(newer)


def test_names_are_those_of_clients_with_a_parked_request() -> None:
    requests = ParkedRequests()
    requests.park(A, request())
    requests.park(Client("b", "1"), request())
    assert sorted(requests.parked(None)) == ["a", "b"]
    assert requests.parked({"b", "c"}) == ["b"]
    assert {waiting.client.name for waiting in requests.drain()} == {"a", "b"}
    assert requests.parked(None) == []
