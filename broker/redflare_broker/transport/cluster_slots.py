"""Which node of a cluster serves which key: the slot map, asked for with CLUSTER SLOTS and never trusted for long.

The map is fetched when a connection is opened anyway, and again after a failure (a MOVED reply, a node that is gone);
it costs one short command. After a failure another node is asked than before: a node that was cut off from the cluster
goes on answering with the map it knew.
"""

from __future__ import annotations

import binascii
import threading
from collections.abc import Callable, Sequence
from typing import Final, cast

from redflare_broker.errors import Unavailable

from .connection import Connection, RedisReply

Address = tuple[str, int]

_SLOTS: Final = 16384


def key_slot(key: str) -> int:
    """Return the hash slot of a key: CRC16 (XMODEM) of the text in its first ``{}``, or of the whole key."""
    raw = key.encode()
    start = raw.find(b"{")
    if start >= 0:
        end = raw.find(b"}", start + 1)
        if end > start + 1:
            raw = raw[start + 1 : end]
    return binascii.crc_hqx(raw, 0) % _SLOTS


class Topology:
    """The slot map of one cluster; thread-safe.

    Args:
        seeds: nodes to ask first; any node of the cluster will do.
        open_connection: opens a connection to a node, raises Unavailable when it is away.
    """

    def __init__(self, seeds: Sequence[Address], open_connection: Callable[[Address], Connection]) -> None:
        self._seeds = tuple(seeds)
        self._open_connection = open_connection
        self._lock = threading.Lock()
        self._ranges: list[tuple[int, int, Address]] = []
        self._stale = True
        self._asked: tuple[Address, Connection] | None = None

    def node(self, key: str) -> Address:
        """Return the primary that serves ``key``, by the map at hand; raise Unavailable when no node serves it now."""
        with self._lock:
            if self._stale:
                self._fetch()
            slot = key_slot(key)
            for first, last, address in self._ranges:
                if first <= slot <= last:
                    return address
            self._stale = True
        raise Unavailable(f"no node of the cluster {self._names()} serves slot {slot} (of key {key!r}) now")

    def primaries(self) -> list[Address]:
        """Fetch the map and return all primaries."""
        with self._lock:
            self._fetch()
            return list(dict.fromkeys(address for _, _, address in self._ranges))

    def refresh(self) -> None:
        """Fetch the map now; raise Unavailable when no node answers."""
        with self._lock:
            self._fetch()

    def invalidate(self) -> None:
        """Fetch the map before it is used again, from another node: something failed."""
        self._stale = True

    def close(self) -> None:
        """Close the connection that the map is fetched through."""
        with self._lock:
            self._forget()

    def _fetch(self) -> None:
        failures = []
        if self._asked and not self._stale:
            try:
                return self._ask(*self._asked)
            except Unavailable as error:
                failures.append(str(error))
        candidates = self._candidates()
        self._forget()
        for address in candidates:
            try:
                self._asked = (address, self._open_connection(address))
                return self._ask(*self._asked)
            except Unavailable as error:
                self._forget()
                failures.append(str(error))
        raise Unavailable(f"no node of the cluster {self._names()} reports its slots: {'; '.join(failures)}")

    def _candidates(self) -> list[Address]:
        """Every known node, the one that was asked last at the end."""
        known = list(dict.fromkeys([*(address for _, _, address in self._ranges), *self._seeds]))
        if self._asked and self._asked[0] in known:
            start = known.index(self._asked[0]) + 1
            known = known[start:] + known[:start]
        return known

    def _ask(self, address: Address, connection: Connection) -> None:
        reply = connection.call("CLUSTER", "SLOTS")
        self._ranges = [_range(cast("list[RedisReply]", row), address[0]) for row in cast("list[RedisReply]", reply)]
        self._stale = False

    def _forget(self) -> None:
        if self._asked:
            self._asked[1].close()
            self._asked = None

    def _names(self) -> str:
        return ",".join(f"{host}:{port}" for host, port in self._seeds)


def _range(row: list[RedisReply], asked_host: str) -> tuple[int, int, Address]:
    first, last, primary = row[:3]
    host, port = cast("list[RedisReply]", primary)[:2]
    # A node that does not know its own address leaves it out: it is the one we reached it by.
    name = host.decode() if isinstance(host, bytes) else ""
    return cast("int", first), cast("int", last), (asked_host if name in ("", "?") else name, cast("int", port))
