"""Fixtures: a Redis, and ways to run something beside a test; and the table of the documented sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.context import ForkServerProcess
from typing import Any

import pytest
import redis
from redflare_broker.config.settings import LinkSettings

from tests.fundamentals.documented.report import pytest_collection_modifyitems, pytest_terminal_summary
from tests.fundamentals.programs import Background, Program
from tests.support.process.child import FORKSERVER

__all__ = ["pytest_collection_modifyitems", "pytest_terminal_summary"]


@pytest.fixture
def settings(namespace: str) -> LinkSettings:
    """Settings with a namespace of the test's own, and short heartbeat intervals."""
    return LinkSettings(namespace=namespace, heartbeat_interval=0.2, heartbeat_ttl=2.0)


@pytest.fixture
def agent_args(server_url: str, settings: LinkSettings) -> dict[str, Any]:
    """Arguments of an ``IPCAgent`` on a real server."""
    return {
        "flare_site_url": server_url,
        "flare_site_name": "site-1",
        "agent_id": "trainer",
        "workspace_dir": ".",
        "settings": settings,
    }


@pytest.fixture
def exchanger_args(server_url: str, settings: LinkSettings) -> dict[str, Any]:
    """Arguments of the ``IPCExchanger`` on its other side."""
    return {"redis_url": server_url, "site_name": "site-1", "agent_id": "trainer", "settings": settings}


@pytest.fixture
def ledger(server_url: str, namespace: str) -> Iterator[Callable[[str], dict[str, str]]]:
    """The state of a task by its id, as ``redis-cli HGETALL`` shows it."""
    with redis.Redis.from_url(server_url, decode_responses=True) as client:
        yield lambda task_id: client.hgetall(f"{namespace}:{{site-1--trainer}}:task:{task_id}")


@pytest.fixture
def background() -> Iterator[Background]:
    with ThreadPoolExecutor() as threads:
        yield threads.submit


@pytest.fixture
def program() -> Iterator[Program]:
    processes: list[ForkServerProcess] = []

    def start(function: Callable[..., object], *args: object) -> ForkServerProcess:
        process = FORKSERVER.Process(target=function, args=args, daemon=True)
        process.start()
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.join()
