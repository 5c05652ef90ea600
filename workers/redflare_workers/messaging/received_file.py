"""``FileConsumers``: the files that a receiver takes: each grows as a part, and gets its name when it is complete."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
import uuid
import zlib
from pathlib import Path
from typing import BinaryIO, Final

from redflare_broker.util import humanize

from redflare_workers.apis.fl_constant import ReturnCode
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.shareable import Shareable, make_reply
from redflare_workers.apis.streaming import (
    ConsumerFactory,
    ObjectConsumer,
    StreamContext,
    StreamContextKey,
)

#: Keys of a stream context, and of the objects, of a file.
KEY_FILE_NAME: Final = "Streamer.file_name"
KEY_FILE_SIZE: Final = "FileStreamer.file_size"
KEY_FILE_LOCATION: Final = "FileStreamer.file_location"
KEY_DATA: Final = "Streamer.data"
KEY_DATA_SIZE: Final = "Streamer.size"
KEY_EOF: Final = "Streamer.eof"
#: Names the file across the streams that it takes.
KEY_FILE_ID: Final = "FileStreamer.file_id"
#: Where a chunk begins; without it, behind the one before.
KEY_OFFSET: Final = "FileStreamer.offset"
#: CRC-32 of the file up to the end of the chunk; in a reply, of what was kept.
KEY_CHECKSUM: Final = "FileStreamer.checksum"
#: Asks how many bytes were kept; in the reply, that number.
KEY_KEPT: Final = "FileStreamer.kept"

#: Bytes of a file, at most, where the receiver says nothing else.
MAX_SIZE: Final = 4 << 30
#: Seconds after which a part that nobody goes on with is removed.
_KEPT_FOR: Final = 24 * 3600.0
_READ: Final = 1 << 20
_FILE_ID: Final = re.compile("[0-9a-f]{32}")


class FileConsumers(ConsumerFactory):
    """Makes a consumer for each file; ``max_size``: bytes of one, at most."""

    def __init__(self, folder: str, max_size: int) -> None:
        self._folder = folder
        self._max_size = max_size
        _sweep(Path(folder))

    def get_consumer(self, stream_ctx: StreamContext, fl_ctx: FLContext) -> ObjectConsumer:
        return _FileConsumer(stream_ctx, Path(self._folder), self._max_size)


class _FileConsumer(ObjectConsumer):
    """Writes one file, and deletes it if it stays incomplete; if this process is killed, its successor goes on."""

    def __init__(self, stream_ctx: StreamContext, folder: Path, max_size: int) -> None:
        size = stream_ctx.get(KEY_FILE_SIZE)
        if not isinstance(size, int) or size < 0:
            raise ValueError(f"the sender of a file must announce its size, but announced {size!r:.200}")
        name = f"file {stream_ctx.get(KEY_FILE_NAME)!r:.200} of {humanize.size(size)}"
        if size > max_size:
            raise ValueError(
                f"{name} ({size} bytes) is refused: the receiver takes {max_size} bytes at most, see max_size"
            )
        file_id = stream_ctx.get(KEY_FILE_ID)
        if not isinstance(file_id, str) or not _FILE_ID.fullmatch(file_id):
            file_id = uuid.uuid4().hex
        self._size = size
        own = uuid.uuid4()
        self._path = folder / str(own)
        self._part = folder / f"{file_id}.{own.hex}.part"
        self._file, self._received = _take_over(folder, file_id, self._part)
        # of what was received; a part that was taken over is read when its sender asks
        self._checksum = 0
        free = shutil.disk_usage(folder).free
        if size - self._received > free:
            self._file.close()
            self._part.unlink()
            raise ValueError(f"{name} is refused: the disk of the receiver has {humanize.size(free)} left")
        stream_ctx[KEY_FILE_LOCATION] = str(self._path)

    def consume(self, shareable: Shareable, stream_ctx: StreamContext, fl_ctx: FLContext) -> tuple[bool, Shareable]:
        if shareable.get(KEY_KEPT):
            return True, self._tell_kept()
        data, size, eof = shareable.get(KEY_DATA), shareable.get(KEY_DATA_SIZE), shareable.get(KEY_EOF)
        if not isinstance(data, bytes | bytearray | memoryview):
            data = b""
        given = len(data)
        if given != size:
            raise ValueError(f"a chunk of {size!r:.200} bytes was announced, but {given} came")
        self._go_to(shareable.get(KEY_OFFSET))
        self._received += given
        if self._received > self._size or (eof and self._received != self._size):
            raise ValueError(f"{self._size} bytes of the file were announced, but {self._received} came")
        self._checksum = zlib.crc32(data, self._checksum)
        if shareable.get(KEY_CHECKSUM, self._checksum) != self._checksum:
            raise ValueError(f"the first {self._received} bytes of the file are not those that were sent")
        self._file.write(data)
        if eof:
            # a full disk must fail before the last chunk is acknowledged
            self._file.flush()
        return not eof, make_reply(ReturnCode.OK)

    def finalize(self, stream_ctx: StreamContext, fl_ctx: FLContext) -> None:
        try:
            self._file.close()
            if stream_ctx.get(StreamContextKey.RC) == ReturnCode.OK and self._received == self._size:
                self._part.rename(self._path)
        finally:
            self._part.unlink(missing_ok=True)

    def _tell_kept(self) -> Shareable:
        """Return how much a predecessor has left, and its checksum."""
        self._checksum = checksum_of(self._file, self._received)
        reply = make_reply(ReturnCode.OK)
        reply[KEY_KEPT], reply[KEY_CHECKSUM] = self._received, self._checksum
        return reply

    def _go_to(self, offset: object) -> None:
        """Check where a chunk begins; at 0, what was kept is not wanted."""
        if offset == 0:
            self._received = self._checksum = 0
            self._file.seek(0)
            self._file.truncate()
        elif offset is not None and offset != self._received:
            raise ValueError(f"a chunk at {offset!r:.50} came, but {self._received} bytes are here")


def checksum_of(file: BinaryIO, size: int) -> int:
    """Compute the CRC-32 of the first bytes of a file, which is read up to there."""
    file.seek(0)
    checksum = 0
    while size > 0 and (piece := file.read(min(size, _READ))):
        checksum = zlib.crc32(piece, checksum)
        size -= len(piece)
    return checksum


def _take_over(folder: Path, file_id: str, part: Path) -> tuple[BinaryIO, int]:
    """Open a part, that of a predecessor if it has left one; return it, and its size."""
    for left in folder.glob(f"{file_id}.*.part"):
        with contextlib.suppress(FileNotFoundError):
            # nobody else takes it from now on
            left.rename(part)
            file = part.open("r+b")
            return file, file.seek(0, os.SEEK_END)
    return part.open("x+b"), 0


def _sweep(folder: Path) -> None:
    """Remove parts that nobody has gone on with for long."""
    for left in folder.glob("*.part"):
        if _FILE_ID.fullmatch(left.name.partition(".")[0]):
            with contextlib.suppress(OSError):
                if time.time() - left.stat().st_mtime > _KEPT_FOR:
                    left.unlink()
