"""Helpers for read-only access to Redis: checked pipelines, hashes as text and as fields, FQCNs from key names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final, cast

from redflare_broker.errors import ConfigError
from redflare_broker.fqcn import FQCN
from redflare_broker.transport.connection import Command, Connection, RedisReply, require

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

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


def fields_of(kind: type[DataclassInstance], texts: Mapping[str, str]) -> dict[str, Any]:
    """Read every field of a dataclass that a hash has: a number, or the text as it is."""
    known = [each for each in fields(kind) if each.name in texts]
    return {each.name: number(texts[each.name]) if each.type == "int" else texts[each.name] for each in known}


def number(value: object) -> int:
    """Read a whole number; 0 if the value is none."""
    try:
        return int(value) if isinstance(value, int | float | str) else 0
    except (ValueError, OverflowError):
        return 0


def fqcns(namespace: str, names: Iterable[str], suffix: str) -> list[str]:
    """Return the FQCNs in the keys ``ns:{fqcn}:<suffix>`` among ``names``; names that are not legal are ignored."""
    head, tail = f"{namespace}:{{", f"}}:{suffix}"
    inner = (name[len(head) : -len(tail)] for name in names if name.startswith(head) and name.endswith(tail))
    return sorted({fqcn for fqcn in inner if is_fqcn(fqcn)})


def is_fqcn(name: str) -> bool:
    try:
        FQCN.check(name)
    except ConfigError:
        return False
    return True
