"""Helpers for read-only access to Redis: checked pipelines, hashes as text, FQCNs from key names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, cast

from redflare_broker.errors import ConfigError
from redflare_broker.fqcn import FQCN
from redflare_broker.transport.connection import Command, Connection, RedisReply, require
from redflare_broker.transport.server import Server

#: Chunks whose lengths are read in one pipeline.
BATCH: Final = 256


def pipeline(connection: Connection, commands: Sequence[Command]) -> list[RedisReply]:
    """Send all commands and return their replies; raises ServerError if one of them is an error."""
    return [require(reply, connection.node) for reply in connection.pipeline(commands)] if commands else []


def now_of(time: RedisReply) -> int:
    """Convert a reply of TIME to ms."""
    seconds, micros = cast("tuple[bytes, bytes]", time)
    return int(seconds) * 1000 + int(micros) // 1000


def text_hash(reply: RedisReply) -> dict[str, str]:
    """Convert a reply of HGETALL to text; bytes that are not UTF-8 become ``\\xNN``."""
    texts = [value.decode("utf-8", "backslashreplace") for value in cast("list[bytes]", reply)]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def fqcns(namespace: str, names: Iterable[str], suffix: str) -> list[str]:
    """The FQCNs in the keys ``ns:{fqcn}:<suffix>`` among ``names``; names that are not legal are ignored."""
    head, tail = f"{namespace}:{{", f"}}:{suffix}"
    inner = (name[len(head) : -len(tail)] for name in names if name.startswith(head) and name.endswith(tail))
    return sorted({fqcn for fqcn in inner if is_fqcn(fqcn)})


def is_fqcn(name: str) -> bool:
    try:
        FQCN.check(name)
    except ConfigError:
        return False
    return True


def stored_bytes(server: Server, prefix: str) -> int:
    """Bytes of one blob's chunks in Redis, up to the first gap of a whole batch; 0 without a prefix."""
    total, first = 0, 0
    while prefix:
        with server.borrow(prefix) as connection:
            replies = pipeline(connection, [("STRLEN", f"{prefix}:{first + n}") for n in range(BATCH)])
        found = sum(cast("list[int]", replies))
        if not found:
            break
        total, first = total + found, first + BATCH
    return total
