"""What a message may cost: its size, its shape, and where its payload is cut."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

from redflare_broker.errors import ConfigError

#: A tuple takes two levels of JSON, a mark three, and orjson writes 254 levels: 120 always fits.
MAX_DEPTH: Final = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecLimits:
    """Limits that both sides check: before anything is written, and before anything is allocated."""

    #: Bytes of a whole message, JSON and buffers together.
    max_bytes: int = 4 << 30
    #: Messages up to this size are kept in their stream entry; the buffers of larger ones go to blobs.
    inline_bytes: int = 64 << 10
    #: Bytes of one blob chunk.
    chunk_bytes: int = 1 << 20
    #: Levels of dicts, lists and tuples.
    max_depth: int = 100
    #: Values in the JSON of a message, the parts of a mark included.
    max_items: int = 1_000_000

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name == "inline_bytes" else 1
            if type(value) is not int or value < least:
                raise ConfigError(f"{field.name} must be an int of at least {least}, but got {value!r}")
        if self.max_depth > MAX_DEPTH:
            raise ConfigError(f"max_depth must be at most {MAX_DEPTH}, but got {self.max_depth}")
