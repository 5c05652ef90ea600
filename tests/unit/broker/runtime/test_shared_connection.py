"""What the links and cells of a process share: who is subscribed, what was checked, and whose it is after a fork."""

from __future__ import annotations

from collections.abc import Iterator

import fakeredis
import pytest
from redflare_broker.errors import PreflightError
from redflare_broker.keys import Keys
from redflare_broker.runtime import shared_connection
from redflare_broker.runtime.shared_connection import SharedConnection
from redflare_broker.runtime.subscriber import Subscription
from redflare_broker.transport.server import ConnectionOptions

from tests.support.waiting import wait_until

KEYS = Keys("ns").link("site-1--agent")


@pytest.fixture
def client() -> fakeredis.FakeRedis:
    return fakeredis.FakeRedis(server=fakeredis.FakeServer())


@pytest.fixture
def shared(client: fakeredis.FakeRedis) -> Iterator[SharedConnection]:
    acquired = SharedConnection.acquire("redis://fake", ConnectionOptions(), client)
    yield acquired
    acquired.release()


class Checks:
    """Stands for the check of Redis: records for whom, and can complain."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.jobs: list[bool] = []
        self.complaint = ""
        monkeypatch.setattr(shared_connection, "check", self._check)

    def _check(self, *args: object, jobs: bool, **options: object) -> None:
        self.jobs.append(jobs)
        if self.complaint:
            raise PreflightError(self.complaint)


def test_redis_that_was_not_fit_is_checked_again_for_the_next_user(
    shared: SharedConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = Checks(monkeypatch)
    checks.complaint = "EVAL is not allowed"
    for _ in range(2):
        with pytest.raises(PreflightError, match="EVAL is not allowed"):
            shared.preflight(False, KEYS)
    assert len(checks.jobs) == 2


def test_what_only_jobs_need_is_checked_although_a_link_was_checked_before(
    shared: SharedConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = Checks(monkeypatch)
    for jobs in (False, False, True, True, False):
        shared.preflight(False, KEYS, jobs=jobs)
    assert checks.jobs == [False, True]


def test_who_ends_a_subscription_is_not_called_any_more(shared: SharedConnection, client: fakeredis.FakeRedis) -> None:
    heard: list[list[str]] = []
    confirmed: list[str] = []
    end = shared.subscribe(Subscription(["leaves"], heard.append, lambda: confirmed.append("leaves")))
    shared.subscribe(Subscription(["stays"], heard.append, lambda: confirmed.append("stays")))
    wait_until(lambda: sorted(confirmed) == ["leaves", "stays"])
    end()
    wait_until(lambda: client.publish("leaves", "too late") == 0)
    client.publish("stays", "in time")
    wait_until(lambda: ["in", "time"] in heard)
    assert ["too", "late"] not in heard


def test_the_last_user_ends_the_threads_and_a_forked_child_ends_nothing(client: fakeredis.FakeRedis) -> None:
    shared = SharedConnection.acquire("redis://fake", ConnectionOptions(), client)
    assert SharedConnection.acquire("redis://fake", ConnectionOptions(), client) is shared
    confirmed: list[str] = []
    shared.subscribe(Subscription(["c"], lambda words: None, lambda: confirmed.append("c")))
    wait_until(lambda: confirmed)
    parent, shared.pid = shared.pid, -1  # as a child sees it
    shared.release()
    shared.pid = parent
    assert shared.users == 2
    shared.release()
    assert client.publish("c", "one user is left") == 1
    shared.release()
    assert client.publish("c", "nobody is left") == 0
