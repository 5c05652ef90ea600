"""Fixtures: jobs on fakeredis, that must have left no thread, no payload and no key without a TTL; and threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import fakeredis
import pytest

from tests.support.job.runs import JobRuns
from tests.support.waiting import wait_until


@pytest.fixture
def redis() -> Iterator[fakeredis.FakeRedis]:
    client = fakeredis.FakeRedis(server=fakeredis.FakeServer())
    yield client
    client.close()


@pytest.fixture
def job(redis: fakeredis.FakeRedis) -> Iterator[JobRuns]:
    before = set(threading.enumerate())
    with JobRuns(redis) as runs:
        yield runs
    wait_until(lambda: not set(threading.enumerate()) - before, what="threads end")
    keys = [str(key, "utf8") for key in redis.scan_iter()]
    assert not [key for key in keys if ":blob:" in key], "payloads are left"
    assert not [key for key in keys if redis.pttl(key) == -1], "keys without a TTL are left"


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """For calls that return later."""
    with ThreadPoolExecutor(4) as pool:
        yield pool
