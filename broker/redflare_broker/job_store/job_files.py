"""Files in chunks: written and read a few chunks at a time, so that a large one costs little memory."""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

from redflare_broker.errors import ConfigError, DecodeError, MessageTooLarge, RedflareError, Unavailable
from redflare_broker.payload.payload_store import discard
from redflare_broker.payload.redis_store import MAX_CHUNKS, RedisPayloadStore, removal
from redflare_broker.payload.room import NO_ROOM, RoomNote
from redflare_broker.transport.connection import Connection
from redflare_broker.transport.server import Server
from redflare_broker.wire.task_entry import BlobRef

from .record import StoredFile

#: A file's content, or its path.
Source: TypeAlias = bytes | bytearray | memoryview | str | os.PathLike[str]
Stop: TypeAlias = Callable[[], bool] | None

#: Chunks that are in memory at once.
_BATCH: Final = 8
#: Redis stores no larger value.
_GREATEST_CHUNK: Final = 512 << 20


def upload(
    server: Server, prefix: str, source: Source, *, chunk: int, most: int, ttl_ms: int, stop: Stop = None
) -> StoredFile:
    """Write a file to chunks under ``prefix``; what it wrote is removed when it fails.

    Args:
        chunk: bytes of a chunk; more where that would make too many.
        most: bytes of the file at most.
        ttl_ms: how long the chunks stand; those that were written are renewed while others are.
        stop: as in ``Server.run``.

    Raises:
        MessageTooLarge: it is larger; nothing is written, unless it grows meanwhile.
        ConfigError: it cannot be read.
        Unavailable: ``stop`` ended the attempts.
        ServerError: Redis refused (no permission).
    """
    size = _size(source, most)
    chunk = max(chunk, -(-size // MAX_CHUNKS))
    renewed = time.monotonic()
    try:
        with _reader(source) as read:
            writer = _Writer(read, RoomNote(_ref(prefix, chunk, size)), ttl_ms)
            try:
                while part := read(writer.written, chunk * _BATCH):
                    _check_size(source, writer.written + len(part), most)
                    server.run(prefix, partial(writer.write, writer.written, part), stop=stop)
                    if time.monotonic() - renewed > ttl_ms / 4000:
                        renewed = time.monotonic()
                        RedisPayloadStore(server).renew(_ref(prefix, chunk, writer.written), ttl_ms, stop=stop)
            except BaseException:
                discard(server, _ref(prefix, chunk, writer.most_written))
                with suppress(RedflareError):  # one attempt; it has its TTL
                    server.run(prefix, writer.note.remove, deadline=time.monotonic())
                raise
    except OSError as error:
        raise _unreadable(source, error) from error
    return StoredFile(blob=_ref(prefix, chunk, writer.written), sha256=writer.sha256.hexdigest())


class _Writer:
    """Writes the batches of one file; all of them again when Redis had no room for one.

    Args:
        read: returns the bytes from a position on, at most so many.
        note: tells people that the file waits for room.
    """

    def __init__(self, read: Callable[[int, int], memoryview], note: RoomNote, ttl_ms: int) -> None:
        self.note = note
        #: bytes in Redis
        self.written = 0
        #: bytes that may be there
        self.most_written = 0
        self.sha256 = hashlib.sha256()
        self._read = read
        self._ttl_ms = ttl_ms

    def write(self, position: int, batch: memoryview, connection: Connection) -> None:
        """Write the batch of a position, and before it those that had to be deleted.

        Raises:
            OSError: what had to be deleted cannot be read again.
            Unavailable: it is not written. When the memory is full, nothing of the file is in Redis any more: what has
                been written would keep the room from others.
        """
        chunk, prefix = self.note.ref.chunk, self.note.ref.prefix
        while self.written <= position:
            part = batch if self.written == position else self._read(self.written, chunk * _BATCH)
            if not part:
                raise OSError(f"it has become shorter: {self.written} bytes are left of it")
            number = self.written // chunk
            views = [part[first : first + chunk] for first in range(0, len(part), chunk)]
            # its chunks may be there when the attempt fails: they are counted before
            self.most_written = max(self.most_written, self.written + len(part))
            try:
                connection.store([(f"{prefix}:{number + i}", [view]) for i, view in enumerate(views)], self._ttl_ms)
            except Unavailable as error:
                if connection.closed or error.cause != NO_ROOM:
                    raise
                free = removal(_ref(prefix, chunk, self.most_written))
                self.written, self.sha256 = 0, hashlib.sha256()
                raise self.note.write(connection, error, free) from error
            self.written += len(part)
            self.sha256.update(part)
        self.note.remove(connection)


def digest(source: Source) -> str:
    """SHA-256 of a file, as ``upload`` tells it; ConfigError: it cannot be read."""
    sha256, first = hashlib.sha256(), 0
    try:
        with _reader(source) as read:
            while part := read(first, 1 << 20):
                sha256.update(part)
                first += len(part)
    except OSError as error:
        raise _unreadable(source, error) from error
    return sha256.hexdigest()


def download(server: Server, file: StoredFile, to: str | os.PathLike[str], *, most: int, stop: Stop = None) -> Path:
    """Read a file into ``to``, which is replaced when all of it is there and right, and not touched otherwise.

    Raises:
        BlobMissing: a chunk is gone.
        DecodeError: its record, or its content, is not what was stored.
        Unavailable: ``stop`` ended the attempts.
        OSError: the file cannot be written.
    """
    target = Path(to)
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        with part.open("xb") as out:
            for view in _content(server, file, most, stop):
                out.write(view)
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return target


def load(server: Server, file: StoredFile, *, most: int, stop: Stop = None) -> bytes:
    """Return a file's content.

    Raises:
        BlobMissing, DecodeError, Unavailable: as ``download``.
    """
    return b"".join(map(bytes, _content(server, file, most, stop)))


def _content(server: Server, file: StoredFile, most: int, stop: Stop) -> Iterator[memoryview]:
    """The content in parts, each of which is good until the next; the last one is given when the whole is right."""
    ref = file.blob
    if ref.nbytes > most or not 0 < ref.chunk <= _GREATEST_CHUNK:
        raise DecodeError(f"file {ref.prefix!r} claims {ref.nbytes} bytes in chunks of {ref.chunk}; {most} are read")
    step = ref.chunk * _BATCH
    buffer = memoryview(bytearray(min(step, ref.nbytes)))
    sha256 = hashlib.sha256()
    for first in range(0, ref.nbytes, step):
        part = buffer[: min(step, ref.nbytes - first)]
        number = first // ref.chunk
        batch = [
            (f"{ref.prefix}:{number + index}", [part[start : start + ref.chunk]])
            for index, start in enumerate(range(0, len(part), ref.chunk))
        ]
        server.run(ref.prefix, lambda connection, batch=batch: connection.load(batch), stop=stop)  # type: ignore[misc]
        sha256.update(part)
        if first + step >= ref.nbytes and (found := sha256.hexdigest()) != file.sha256:
            raise DecodeError(f"file {ref.prefix!r} is not what was stored: sha256 {found} instead of {file.sha256}")
        yield part


@contextmanager
def _reader(source: Source) -> Iterator[Callable[[int, int], memoryview]]:
    """Open a file; yield a function that returns its bytes from a position on, at most so many.

    A pipe can be read on only.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        view = memoryview(source).cast("B")
        yield lambda first, size: view[first : first + size]
        return
    position = 0
    with Path(source).open("rb") as file:

        def read(first: int, size: int) -> memoryview:
            nonlocal position
            if first != position:
                file.seek(first)
            content = file.read(size)
            position = first + len(content)
            return memoryview(content)

        yield read


def _size(source: Source, most: int) -> int:
    try:
        size = (
            memoryview(source).nbytes if isinstance(source, bytes | bytearray | memoryview) else os.stat(source).st_size
        )
    except OSError as error:
        raise _unreadable(source, error) from error
    _check_size(source, size, most)
    return size


def _check_size(source: Source, size: int, most: int) -> None:
    if size > most:
        what = "it" if isinstance(source, bytes | bytearray | memoryview) else os.fspath(source)
        raise MessageTooLarge(f"{what} has {size} bytes; at most {most} are stored (file_bytes)")


def _unreadable(source: Source, error: OSError) -> ConfigError:
    return ConfigError(f"{source!r:.300} cannot be read: {error}")


def _ref(prefix: str, chunk: int, size: int) -> BlobRef:
    return BlobRef(prefix=prefix, chunk=chunk, sizes=(size,))
