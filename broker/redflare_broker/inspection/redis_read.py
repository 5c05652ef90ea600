"""How those who look in read Redis: whole pipelines or an error, hashes as text, keys that are ours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, cast

from redflare_broker.errors import ConfigError
from redflare_broker.fqcn import FQCN
from redflare_broker.transport.connection import Command, Connection, RedisReply, require
from redflare_broker.transport.server import Server

#: Chunks whose lengths are asked for in one go.
BATCH: Final = 256


def pipeline(connection: Connection, commands: Sequence[Command]) -> list[RedisReply]:
    """The replies; ServerError: one of them is an error."""
    return [require(reply, connection.node) for reply in connection.pipeline(commands)] if commands else []


def now_of(time: RedisReply) -> int:
    """What TIME replied, in ms."""
    seconds, micros = cast("tuple[bytes, bytes]", time)
    return int(seconds) * 1000 + int(micros) // 1000


def text_hash(reply: RedisReply) -> dict[str, str]:
    """What HGETALL replied; bytes that are no text are shown as they are."""
    texts = [value.decode("utf-8", "backslashreplace") for value in cast("list[bytes]", reply)]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def fqcns(namespace: str, names: Iterable[str], suffix: str) -> list[str]:
    """FQCNs of the keys ``ns:{fqcn}:<suffix>`` among ``names``; what is not a legal FQCN is none of ours."""
    head, tail = f"{namespace}:{{", f"}}:{suffix}"
    inner = (name[len(head) : -len(tail)] for name in names if name.startswith(head) and name.endswith(tail))
    return sorted({fqcn for fqcn in inner if is_fqcn(fqcn)})


def is_fqcn(name: str) -> bool:
    try:
        FQCN.check(name)
    except ConfigError:
        return False
    return True


def stored(server: Server, prefix: str) -> int:
    """Bytes of one blob's chunks that are there, up to the first gap of a whole batch; 0 for no prefix."""
    total, first = 0, 0
    while prefix:
        with server.borrow(prefix) as connection:
            replies = pipeline(connection, [("STRLEN", f"{prefix}:{first + n}") for n in range(BATCH)])
        found = sum(cast("list[int]", replies))
        if not found:
            break
        total, first = total + found, first + BATCH
    return total
