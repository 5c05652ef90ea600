"""A cluster for tests."""

# mypy: allow-untyped-calls

from __future__ import annotations

import redis
from redflare_broker.transport.server import ConnectionOptions
from redis.cluster import ClusterNode

from tests.support.redis_server.node import Node, Settings
from tests.support.waiting import wait_until

#: Of each node.
CLUSTER_SETTINGS: Settings = {
    "dir": "<directory>",
    "cluster-enabled": "yes",
    "cluster-node-timeout": 1000,
    "cluster-replica-validity-factor": 0,
    "repl-diskless-sync-delay": 0,
}


class Cluster:
    """Six nodes: every one of three primaries has a replica."""

    def __init__(self, nodes: list[Node]) -> None:
        self.nodes = nodes
        self.url = "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes[:3])
        self.options = self.agent_options = ConnectionOptions()

    def client(self) -> redis.RedisCluster:
        """A client of the cluster."""
        return redis.RedisCluster(startup_nodes=[ClusterNode("127.0.0.1", node.port) for node in self.nodes])

    def nodes_of_all(self) -> list[Node]:
        """Every node that has users."""
        return self.nodes

    def form(self) -> None:
        """Join the nodes, assign the slots, give every primary a replica; wait until all agree."""
        clients = [node.client() for node in self.nodes]
        for number, (node, client) in enumerate(zip(self.nodes, clients, strict=True)):
            client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
            clients[0].execute_command("CLUSTER MEET", "127.0.0.1", node.port)
        for client, (first, last) in zip(clients, ((0, 5460), (5461, 10922), (10923, 16383)), strict=False):
            client.execute_command("CLUSTER ADDSLOTSRANGE", first, last)
        wait_until(lambda: all(_cluster_info(client)["cluster_known_nodes"] == "6" for client in clients), 20)
        for primary, replica in zip(clients[:3], clients[3:], strict=True):
            name = primary.execute_command("CLUSTER MYID")
            wait_until(lambda replica=replica, name=name: _replicate(replica, name))  # type: ignore[misc]
        wait_until(lambda: all(self._is_ready(client) for client in clients), 20, "a complete cluster")
        for client in clients:
            client.close()

    def primary_of(self, key: str) -> Node:
        """The node that serves ``key`` now."""
        with self.client() as client:
            found = client.get_node_from_key(key)
        assert found is not None
        return next(node for node in self.nodes if node.port == found.port)

    def failover(self, key: str) -> Node:
        """Kill the node that serves ``key``; return it when its replica has taken over and the cluster is whole."""
        lost = self.primary_of(key)
        lost.kill()
        others = [node for node in self.nodes if node is not lost]
        wait_until(lambda: all(self._knows_successor(node, lost) for node in others), 30, f"failover of {lost.url}")
        return lost

    def hand_over(self, key: str) -> Node:
        """Let the replica of the node that serves ``key`` take over without a loss; return it when all nodes agree."""
        old = self.primary_of(key)
        with old.client() as client:
            (replica,) = client.execute_command("ROLE")[2]
        new = next(node for node in self.nodes if node.port == int(replica[1]))
        with new.client() as client:
            client.execute_command("CLUSTER FAILOVER")
        wait_until(lambda: all(self._knows_successor(node, old) for node in self.nodes), 30, "the hand-over")
        return new

    @staticmethod
    def _knows_successor(node: Node, lost: Node) -> bool:
        with node.client() as client:
            slots = client.execute_command("CLUSTER SLOTS")
            gone = all(row[2][1] != lost.port for row in slots)
            return gone and _cluster_info(client)["cluster_state"] == "ok"

    @staticmethod
    def _is_ready(client: redis.Redis) -> bool:
        replication = client.info("replication")
        linked = replication["role"] == "master" or replication["master_link_status"] == "up"
        slots = client.execute_command("CLUSTER SLOTS")
        complete = len(slots) == 3 and all(len(row) == 4 for row in slots)  # first, last, primary, replica
        return linked and complete and _cluster_info(client)["cluster_state"] == "ok"


def _cluster_info(client: redis.Redis) -> dict[str, str]:
    return dict(client.execute_command("CLUSTER INFO"))


def _replicate(replica: redis.Redis, primary: str) -> bool:
    try:
        return bool(replica.execute_command("CLUSTER REPLICATE", primary))
    except redis.ResponseError:  # it does not know the primary yet
        return False
