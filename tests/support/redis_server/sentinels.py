"""Sentinels for tests, and the nodes that they monitor."""

# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import redis
from redflare_broker.transport.server import ConnectionOptions

from tests.support.redis_server.node import Node
from tests.support.waiting import wait_until


class SentinelTrio:
    """A primary and its replica, and the three Sentinels that fail over between them."""

    def __init__(self, nodes: list[Node], sentinels: list[Node]) -> None:
        self.nodes = nodes
        self.sentinels = sentinels
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in sentinels)
        self.url = f"redis+sentinel://{hosts}/main"
        self.options = self.agent_options = ConnectionOptions()

    @property
    def primary(self) -> Node:
        """The one that the first Sentinel calls primary now."""
        with self.sentinels[0].client() as client:
            _, port = client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main")
        return next(node for node in self.nodes if node.port == int(port))

    def nodes_of_all(self) -> list[Node]:
        """Every node that has users of federations."""
        return self.nodes

    def client(self) -> redis.Redis:
        """A client of the present primary."""
        return self.primary.client()

    def await_agreement(self) -> None:
        """Wait until every Sentinel knows the other two and the replica."""
        for node in self.sentinels:
            wait_until(lambda node=node: self._sees_all(node), 20)  # type: ignore[misc]

    def notice_after(self, seconds: float) -> None:
        """Let the Sentinels begin a failover when the primary has been silent for so long."""
        for node in self.sentinels:
            with node.client() as client:
                client.execute_command("SENTINEL", "SET", "main", "down-after-milliseconds", round(seconds * 1000))

    def failover(self) -> Node:
        """Kill the primary; return it when the Sentinels have promoted the replica."""
        old = self.primary
        old.kill()
        new = next(node for node in self.nodes if node is not old)
        wait_until(lambda: self._is_promoted(new), 30, "failover")
        return old

    @contextmanager
    def slept_through_a_failover(self) -> Iterator[Node]:
        """Let the primary sleep until its replica is promoted: it works, and thinks for some seconds that it is one.

        It sleeps again at the end of the block, until it is removed.
        """
        old = self.primary
        new = next(node for node in self.nodes if node is not old)
        with old.client() as client:
            # what was written has reached the replica
            client.wait(1, 5000)
        old.pause()
        wait_until(lambda: self._is_promoted(new), 30, "failover")
        # a Sentinel that has not heard of it yet says that there is no primary
        for sentinel in self.sentinels:
            wait_until(lambda sentinel=sentinel: self._names(sentinel, new), 30)  # type: ignore[misc]
        old.resume()
        try:
            yield old
        finally:
            old.pause()

    def _is_promoted(self, node: Node) -> bool:
        try:
            return node.info("replication")["role"] == "master" and self.primary is node
        except redis.ConnectionError:  # Sentinel closes the connections of clients to an instance that it promotes
            return False

    @staticmethod
    def _names(sentinel: Node, primary: Node) -> bool:
        with sentinel.client() as client:
            state = client.sentinel_master("main")
            return bool(state["port"] == primary.port and not state["is_sdown"] and not state["is_odown"])

    @staticmethod
    def _sees_all(node: Node) -> bool:
        with node.client() as client:
            state = client.sentinel_master("main")
            return bool(state["num-other-sentinels"] == 2 and state["num-slaves"] == 1 and not state["is_odown"])
