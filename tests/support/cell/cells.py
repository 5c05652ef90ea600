"""Cells for tests: made by name, stopped at the end, and keys that they may leave behind are checked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

import fakeredis
from redflare_broker.cell.cell import LATER, Cell, HandlerResult, Reply, Request
from redflare_broker.config.retention import RetentionPolicy
from redflare_broker.config.settings import LinkSettings
from redflare_broker.keys import Keys
from redflare_broker.transport.replies import RedisReply
from redflare_broker.transport.server import ConnectionOptions, Server
from redflare_broker.wire.limits import CodecLimits

from tests.support.redis_server.expiry import assert_expires
from tests.support.waiting import wait_until

#: Seconds after which keys of a test are gone.
RETENTION: Final = 30.0

SETTINGS: Final = LinkSettings(
    namespace="ns",
    heartbeat_interval=0.1,
    heartbeat_ttl=2.0,
    limits=CodecLimits(inline_bytes=1000, chunk_bytes=1000),
    policy=RetentionPolicy(retention=RETENTION, settled_retention=RETENTION),
    connection=ConnectionOptions(socket_timeout=0.5, connect_timeout=0.5),
)


class Cells:
    """A factory of cells at one server."""

    def __init__(self, server: Server, settings: LinkSettings = SETTINGS) -> None:
        self.server = server
        self.settings = settings
        #: Scans for keys; replaced where the cells' user has no right to.
        self.scan: Callable[[], Iterable[str]] = lambda: server.scan(f"{settings.namespace}:*")
        self._made: list[Cell] = []

    def make(self, fqcn: str, handlers: dict[str, Callable[..., Any]] | None = None, **changes: Any) -> Cell:
        """Start a cell, with handlers by topic on channel "c"."""
        cell = Cell(self.server, fqcn, replace(self.settings, **changes))
        self._made.append(cell)
        for topic, handler in (handlers or {}).items():
            cell.register_request_cb("c", topic, handler)
        cell.start()
        return cell

    def redis(self, *command: Any) -> RedisReply:
        """Run a command on the node of its key."""
        with self.server.borrow(command[1] if len(command) > 1 else "any") as connection:
            return connection.call(*command)

    def write(self, to: str, fields: Sequence[Any], *, by: str) -> None:
        """Write an entry into the inbox that the cell ``to`` has for ``by``, and ring."""
        keys = Keys(self.settings.namespace).cell(to)
        self.redis("XADD", keys.inbox(by), "*", *fields)
        self.redis("SADD", keys.senders, by)
        self.redis("PEXPIRE", keys.senders, 20_000)
        self.redis(self.server.publish, keys.doorbell, by)

    def inboxes(self, fqcn: str) -> list[str]:
        """Keys of the inboxes of a cell that somebody has written into."""
        keys = Keys(self.settings.namespace).cell(fqcn)
        senders = self.redis("SRANDMEMBER", keys.senders, 10_000)
        assert isinstance(senders, list)
        return [keys.inbox(sender.decode()) for sender in senders if isinstance(sender, bytes)]

    def entries(self, fqcn: str) -> list[dict[str, str]]:
        """The entries of the inboxes of a cell, the oldest first."""
        found = [item for inbox in self.inboxes(fqcn) for item in self._range(inbox)]
        return sorted((_entry(item) for item in found), key=lambda entry: tuple(map(int, entry["entry"].split("-"))))

    def _range(self, stream: str) -> list[RedisReply]:
        found = self.redis("XRANGE", stream, "-", "+")
        assert isinstance(found, list)
        return found

    def dead(self, fqcn: str) -> list[dict[str, str]]:
        """The dead letters of a cell."""
        return [_entry(item) for item in self._range(f"{self.settings.namespace}:{{{fqcn}}}:dead")]

    def keys(self) -> set[str]:
        """All keys of this namespace."""
        return set(self.scan())

    def blobs(self) -> set[str]:
        """Keys of chunks."""
        return {key for key in self.keys() if ":blob" in key}

    def close(self) -> None:
        for cell in self._made:
            cell.stop(timeout=2.0)
        for key in self.keys():
            assert_expires(key, self.redis("PTTL", key), RETENTION)


def _entry(item: RedisReply) -> dict[str, str]:
    assert isinstance(item, list)
    entry_id, flat = item
    assert isinstance(entry_id, bytes)
    assert isinstance(flat, list)
    texts = [value.decode(errors="replace") for value in flat if isinstance(value, bytes)]
    return {"entry": entry_id.decode(), **dict(zip(texts[::2], texts[1::2], strict=True))}


class Parking:
    """A handler that replies later."""

    def __init__(self) -> None:
        self.parked: list[Request] = []

    def __call__(self, request: Request) -> HandlerResult:
        self.parked.append(request)
        return LATER

    def wait(self, count: int = 1) -> Request:
        """Wait for so many requests; return the last."""
        wait_until(lambda: len(self.parked) >= count, what=f"{count} parked requests")
        return self.parked[-1]


class Replies:
    """Records the replies of ``ask``."""

    def __init__(self) -> None:
        self.all: list[Reply] = []

    def __call__(self, reply: Reply) -> None:
        self.all.append(reply)


def threads_of(fqcn: str) -> list[str]:
    """Names of the running threads of a cell."""
    return [thread.name for thread in threading.enumerate() if thread.name.partition(f"-{fqcn}")[1]]


@contextmanager
def cells_on_fakeredis() -> Iterator[Cells]:
    """Cells at a server in this process."""
    client = fakeredis.FakeRedis(server=fakeredis.FakeServer())
    with Server.connect(client=client) as server:
        cells = Cells(server)
        try:
            yield cells
        finally:
            cells.close()


@contextmanager
def cells_at(url: str, namespace: str, options: ConnectionOptions | None = None) -> Iterator[Cells]:
    """Cells at a real server."""
    options = replace(options or SETTINGS.connection, socket_timeout=0.5, connect_timeout=0.5)
    with Server.connect(url, options) as server:
        cells = Cells(server, replace(SETTINGS, namespace=namespace, connection=options))
        try:
            yield cells
        finally:
            cells.close()
