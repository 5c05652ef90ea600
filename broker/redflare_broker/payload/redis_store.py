"""``RedisPayloadStore``: the buffers of a payload as one stream of bytes, cut into keys of a chunk each.

Chunk ``n`` is stored at ``<prefix>:<n>`` and holds bytes ``n*chunk`` to ``(n+1)*chunk`` of the buffers' concatenation,
which is never built: bytes go from the sender's arrays to the socket, and from the socket into the receiver's. All
chunks of a payload share the hash tag of their prefix, so one connection reaches them all. Every step may be run twice.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeAlias, TypeVar, cast

from redflare_broker.errors import DecodeError, RedflareError, Unavailable
from redflare_broker.transport.connection import Connection
from redflare_broker.transport.replies import Arg, Command, RedisReply, require
from redflare_broker.transport.server import Server
from redflare_broker.wire.limits import CodecLimits
from redflare_broker.wire.task_entry import BlobRef

from .room import NO_ROOM, RoomNote

T = TypeVar("T")
#: Asked after each failed attempt; True ends them, as in ``Server.run``.
Stop: TypeAlias = Callable[[], bool] | None
Chunk: TypeAlias = tuple[str, Sequence[memoryview]]

#: Most keys of one payload: a sender makes its chunks larger rather than more, a reader refuses a reference to more.
MAX_CHUNKS: Final = 1 << 16
#: Commands of one pipeline, and keys of one UNLINK.
_SLICE: Final = 512


class RedisPayloadStore:
    """The payloads in the chunks of one Redis; a ``PayloadStore``, which documents its methods."""

    def __init__(self, server: Server) -> None:
        self._server = server
        #: the notes about payloads that did not fit at their last attempt, by prefix
        self._notes: dict[str, RoomNote] = {}

    def put(
        self,
        prefix: str,
        buffers: Sequence[memoryview],
        *,
        chunk: int,
        ttl_ms: int,
        stop: Stop = None,
        deadline: float | None = None,
    ) -> BlobRef:
        """Set each chunk with its TTL, straight from the buffers."""
        ref = ref_of(prefix, buffers, chunk)
        note = self._notes.pop(prefix, None) or RoomNote(ref)
        try:
            if ref.chunks:
                self._server.run(
                    _key(prefix, 0),
                    lambda connection: self._store(connection, note, buffers, ttl_ms),
                    stop=stop,
                    deadline=deadline,
                )
        except BaseException as error:
            with contextlib.suppress(RedflareError):  # one attempt; what is left has its TTL
                if isinstance(error, Unavailable) and error.cause == NO_ROOM and not (stop and stop()):
                    # the caller may make the next attempt itself: until then the note says that it waits
                    self._keep(note)
                else:
                    self._server.run(_key(prefix, 0), note.remove, deadline=time.monotonic())
                self.remove(ref, deadline=time.monotonic())
            raise
        return ref

    def _keep(self, note: RoomNote) -> None:
        """Keep a note for the next attempt, and forget those whose last one is too long ago."""
        self._notes[note.ref.prefix] = note
        for prefix, each in list(self._notes.items()):
            if each.is_over:
                self._notes.pop(prefix, None)

    @staticmethod
    def _store(connection: Connection, note: RoomNote, buffers: Sequence[memoryview], ttl_ms: int) -> None:
        try:
            connection.store(_cut(note.ref, buffers), ttl_ms)
        except Unavailable as error:
            if not connection.closed:
                # refused for want of memory: what this one has written would keep it from others while it waits
                free = removal(note.ref)
                if error.cause == NO_ROOM:
                    raise note.write(connection, error, free) from error
                connection.pipeline(free)
            raise
        note.remove(connection)

    def fetch(
        self, ref: BlobRef, targets: Sequence[memoryview], *, stop: Stop = None, deadline: float | None = None
    ) -> None:
        """Read the chunks straight into ``targets``."""
        sizes = tuple(map(len, targets))
        if sizes != ref.sizes:
            raise DecodeError(f"blob {ref.prefix!r} has buffers of {ref.sizes} bytes, but there is room for {sizes}")
        if ref.chunks:
            chunks = list(_cut(ref, targets))
            self._server.run(
                _key(ref.prefix, 0), lambda connection: connection.load(chunks), stop=stop, deadline=deadline
            )

    def renew(self, ref: BlobRef, ttl_ms: int, *, stop: Stop = None, deadline: float | None = None) -> bool:
        """Set the TTL of every chunk; False if one is gone."""
        replies = self._pipelined(ref, renewal(ref, ttl_ms), stop, deadline)
        return all(reply == 1 for reply in replies)

    def prolong(self, ref: BlobRef, ttl_ms: int, *, stop: Stop = None, deadline: float | None = None) -> None:
        """Set the TTL of every chunk that has less."""
        self._pipelined(ref, [[*command, "GT"] for command in renewal(ref, ttl_ms)], stop, deadline)

    def stored(self, prefix: str) -> int:
        """Add up the chunks, up to the first gap of a whole slice."""
        total, first = 0, 0
        while prefix:
            commands = [("STRLEN", _key(prefix, first + number)) for number in range(_SLICE)]
            with self._server.borrow(_key(prefix, 0)) as connection:
                replies = [require(reply, connection.node) for reply in connection.pipeline(commands)]
            found = sum(cast("list[int]", replies))
            if not found:
                break
            total, first = total + found, first + _SLICE
        return total

    def remove(self, ref: BlobRef, *, stop: Stop = None, deadline: float | None = None) -> None:
        """Unlink the chunks."""
        self._pipelined(ref, removal(ref), stop, deadline)

    def _pipelined(
        self, ref: BlobRef, commands: Sequence[Command], stop: Stop, deadline: float | None
    ) -> list[RedisReply]:
        def run(connection: Connection) -> list[RedisReply]:
            return [
                require(reply, connection.node) for part in _sliced(commands) for reply in connection.pipeline(part)
            ]

        return self._server.run(_key(ref.prefix, 0), run, stop=stop, deadline=deadline) if commands else []

    def __repr__(self) -> str:
        return f"<RedisPayloadStore at {self._server.url}>"


def ref_of(prefix: str, buffers: Sequence[memoryview], chunk: int) -> BlobRef:
    """Return the reference to buffers that are, or will be, stored under ``prefix``."""
    sizes = tuple(map(len, buffers))
    return BlobRef(prefix=prefix, chunk=max(chunk, -(-sum(sizes) // MAX_CHUNKS)), sizes=sizes)


def renewal(ref: BlobRef, ttl_ms: int) -> list[list[Arg]]:
    """Make the commands that set the TTL of every chunk."""
    return [["PEXPIRE", key, ttl_ms] for key in _keys(ref)]


def removal(ref: BlobRef) -> list[Command]:
    """Make the commands that unlink the chunks."""
    return [("UNLINK", *keys) for keys in _sliced(_keys(ref))]


def check_ref(ref: BlobRef, limits: CodecLimits) -> None:
    """Refuse a reference with impossible sizes, before anything is allocated for it.

    Raises:
        DecodeError: negative sizes, more bytes than the cap, or more keys than any sender makes.
    """
    where = f"blob {ref.prefix!r}"
    if ref.chunk < 1:
        raise DecodeError(f"{where} is cut every {ref.chunk} bytes; at least 1 is needed")
    if any(size < 0 for size in ref.sizes):
        raise DecodeError(f"{where} claims a buffer of {min(ref.sizes)} bytes")
    if ref.nbytes > limits.max_bytes:
        raise DecodeError(f"{where} claims {ref.nbytes} bytes; max_bytes allows {limits.max_bytes}")
    if ref.chunks > MAX_CHUNKS:
        raise DecodeError(f"{where} claims {ref.chunks} chunks; at most {MAX_CHUNKS} are read")


def _cut(ref: BlobRef, buffers: Sequence[memoryview]) -> Iterator[Chunk]:
    """Yield each chunk's key, and the views of the buffers that make it up."""
    number, room, parts = 0, ref.chunk, list[memoryview]()
    for buffer in buffers:
        rest = buffer
        while len(rest):
            parts.append(rest[:room])
            rest, room = rest[room:], room - len(parts[-1])
            if not room:
                yield _key(ref.prefix, number), parts
                number, room, parts = number + 1, ref.chunk, []
    if parts:
        yield _key(ref.prefix, number), parts


def _keys(ref: BlobRef) -> list[str]:
    return [_key(ref.prefix, number) for number in range(ref.chunks)]


def _key(prefix: str, number: int) -> str:
    return f"{prefix}:{number}"


def _sliced(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for first in range(0, len(items), _SLICE):
        yield items[first : first + _SLICE]
