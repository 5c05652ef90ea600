"""``LedgerPayloads``: the payloads that a task's ledger names, to be deleted when those who made them have died."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from redflare_broker.keys import LinkKeys
from redflare_broker.payload.payload_store import payloads_of
from redflare_broker.payload.redis_store import MAX_CHUNKS
from redflare_broker.transport.connection import Connection
from redflare_broker.transport.replies import RedisReply
from redflare_broker.transport.server import Server
from redflare_broker.wire.task_entry import BlobRef


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerPayloads:
    """Those payloads of one task that a CJ may delete at its end."""

    #: Of the task; "" when its ledger is gone.
    status: str
    #: Made by a CJ of this link; not one that it passed on.
    task: BlobRef | None
    #: Made by an agent; not one that was given to somebody else, who deletes it.
    result: BlobRef | None

    @classmethod
    def read(cls, connection: Connection, keys: LinkKeys, task_id: str) -> Self:
        """Read them from a ledger; of one that is gone there are none."""
        names = ("status", "blob", "chunks", "result_blob", "result_chunks", "lent")
        reply = connection.call("HMGET", keys.task(task_id), *names)
        status, prefix, chunks, result_prefix, result_chunks, lent = reply if isinstance(reply, list) else [None] * 6
        return cls(
            status=status.decode() if isinstance(status, bytes) else "",
            task=_ref(prefix, chunks, keys.task_blob("")),
            result=None if lent == b"1" else _ref(result_prefix, result_chunks, keys.result_blob("")),
        )

    def __iter__(self) -> Iterator[BlobRef]:
        return iter([ref for ref in (self.task, self.result) if ref is not None])


def remove_task_payloads(server: Server, keys: LinkKeys, task_id: str, *, deadline: float) -> None:
    """Delete the payloads of a task that was ended in place of its CJ.

    Raises:
        Unavailable: not all of them are deleted; it may be repeated.
    """
    found = server.run(keys.link, lambda connection: LedgerPayloads.read(connection, keys, task_id), deadline=deadline)
    for ref in found:
        payloads_of(server).remove(ref, deadline=deadline)


def _ref(prefix: RedisReply, chunks: RedisReply, begins: str) -> BlobRef | None:
    """A reference that is good for renewing and deleting; None when there is nothing under this name to delete."""
    if not isinstance(prefix, bytes) or not isinstance(chunks, bytes) or not prefix.startswith(begins.encode()):
        return None
    if not chunks.isdigit() or not 0 < int(chunks) <= MAX_CHUNKS:
        return None
    return BlobRef(prefix=prefix.decode(), chunk=1, sizes=(int(chunks),))
