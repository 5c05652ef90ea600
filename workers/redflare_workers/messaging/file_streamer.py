"""``FileStreamer``: sends a file through an object stream, in chunks. After NVFlare's ``FileStreamer``.

When a receiver's process is started again in the middle of a file, the sender begins another stream of the same file,
whose first object asks what the receiver has kept; it goes on behind that if the checksums agree.
"""

from __future__ import annotations

import logging
import os
import tempfile
import uuid
import zlib
from typing import Any, BinaryIO, Final

from redflare_workers.apis.fl_constant import ReturnCode
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.shareable import ReservedHeaderKey, Shareable
from redflare_workers.apis.streaming import (
    ConsumedCallback,
    ObjectProducer,
    ProgressCallback,
    StreamableEngine,
    StreamContext,
    StreamContextKey,
    StreamDoneCallback,
)

from .received_file import (
    KEY_CHECKSUM,
    KEY_DATA,
    KEY_DATA_SIZE,
    KEY_EOF,
    KEY_FILE_ID,
    KEY_FILE_LOCATION,
    KEY_FILE_NAME,
    KEY_FILE_SIZE,
    KEY_KEPT,
    KEY_OFFSET,
    MAX_SIZE,
    FileConsumers,
    checksum_of,
)
from .stream_session import UNKNOWN_STREAM

logger = logging.getLogger(__name__)

_CHUNK_SIZE: Final = 1 << 20
_CHUNK_TIMEOUT: Final = 5.0
#: Chunks on their way at once.
_WINDOW: Final = 4
#: How often a file is gone on with after a receiver was started again.
_RESUMES: Final = 10
#: Bytes that a receiver reads in a second, at least, to compute a checksum.
_READ_RATE: Final = 50 << 20


class FileStreamer:
    """Sends and receives files, on any engine that streams."""

    @staticmethod
    def register_stream_processing(
        fl_ctx: FLContext,
        channel: str,
        topic: str,
        dest_dir: str | None = None,
        stream_done_cb: StreamDoneCallback | None = None,
        chunk_consumed_cb: ConsumedCallback | None = None,
        *,
        max_size: int = MAX_SIZE,
        **cb_kwargs: Any,
    ) -> None:
        """Receive the files of a channel and topic.

        Args:
            dest_dir: folder for the files, under unique names; None: that for temporary files. A file that comes in has
                a name that ends with ``.part`` there; when this process is killed, the next one goes on with it.
            max_size: bytes of a file, at most; a larger one, or one for which the disk has no room, is refused.
            stream_done_cb: called at the end as ``cb(stream_ctx, fl_ctx, **cb_kwargs)``. ``get_rc`` returns OK if the
                file is complete, ``get_file_location`` its path: the callback's to move or delete. An incomplete file
                is deleted already.
            chunk_consumed_cb: called after each chunk.

        Raises:
            ValueError: the folder does not exist, or ``max_size`` is not > 0.
            TypeError: the context's engine cannot stream.
        """
        if isinstance(max_size, bool) or not isinstance(max_size, int) or max_size < 1:
            raise ValueError(f"max_size must be an int > 0 (bytes), but got {max_size!r}")
        folder = dest_dir or tempfile.gettempdir()
        if not os.path.isdir(folder):
            raise ValueError(f"dest_dir {folder!r} is not a folder")
        _engine(fl_ctx).register_stream_processing(
            channel,
            topic,
            FileConsumers(folder, max_size),
            stream_done_cb=stream_done_cb,
            consumed_cb=chunk_consumed_cb,
            **cb_kwargs,
        )

    @staticmethod
    def stream_file(
        channel: str,
        topic: str,
        stream_ctx: StreamContext | None,
        targets: list[str],
        file_name: str,
        fl_ctx: FLContext,
        chunk_size: int | None = None,
        chunk_timeout: float | None = None,
        optional: bool = False,
        secure: bool = False,
        *,
        progress_cb: ProgressCallback | None = None,
    ) -> tuple[str, Any]:
        """Send a file, in this thread, to the end, also when a target's process is started again meanwhile.

        Args:
            chunk_size: bytes of a chunk; None: 1 MiB.
            chunk_timeout: seconds that each target has for a chunk, counted from its last answer; None: 5. See
                ``ObjectStreamer.stream_objects``.
            progress_cb: called after each chunk that all targets have taken.

        Returns:
            OK and the targets' last replies by name; or ERROR and False; or TASK_ABORTED and None.

        Raises:
            ValueError: the file does not exist, or a number is not > 0.
            TypeError: an argument is of the wrong type, or the context's engine cannot stream.
        """
        if not os.path.isfile(file_name):
            raise ValueError(f"{file_name!r} is not a file")
        size = chunk_size or _CHUNK_SIZE
        if type(size) is not int or size < 1:
            raise ValueError(f"chunk_size must be an int > 0, but got {chunk_size!r}")
        timeout = chunk_timeout or _CHUNK_TIMEOUT
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or timeout <= 0:
            raise ValueError(f"chunk_timeout must be a number > 0 (seconds), but got {chunk_timeout!r}")
        engine = _engine(fl_ctx)
        context = {} if stream_ctx is None else stream_ctx
        with open(file_name, "rb") as file:
            context[KEY_FILE_NAME] = os.path.basename(file_name)
            context[KEY_FILE_SIZE] = os.fstat(file.fileno()).st_size
            context[KEY_FILE_ID] = uuid.uuid4().hex
            for attempt in range(1 + _RESUMES):
                producer = _FileProducer(file, size, float(timeout), context[KEY_FILE_SIZE], resume=attempt > 0)
                rc, result = engine.stream_objects(
                    channel, topic, context, targets, producer, fl_ctx, optional, secure, progress_cb=progress_cb
                )
                if not producer.restarted:
                    break
                text = "file %r: %s was started again; sending what it has not kept"
                logger.warning(text, context[KEY_FILE_NAME], ", ".join(producer.restarted))
            return rc, result

    @staticmethod
    def get_channel(ctx: StreamContext) -> Any:
        """Return the stream's channel."""
        return ctx.get(StreamContextKey.CHANNEL)

    @staticmethod
    def get_topic(ctx: StreamContext) -> Any:
        """Return the stream's topic."""
        return ctx.get(StreamContextKey.TOPIC)

    @staticmethod
    def get_rc(ctx: StreamContext) -> Any:
        """How the stream ended; OK: the file is complete. None before that."""
        return ctx.get(StreamContextKey.RC)

    @staticmethod
    def get_file_name(stream_ctx: StreamContext) -> Any:
        """Return the file's name at its sender, without folders. It is another process's claim: do not write to it."""
        return stream_ctx.get(KEY_FILE_NAME)

    @staticmethod
    def get_file_location(stream_ctx: StreamContext) -> Any:
        """Path of the received file."""
        return stream_ctx.get(KEY_FILE_LOCATION)

    @staticmethod
    def get_file_size(stream_ctx: StreamContext) -> Any:
        """Return the bytes of the file, as its sender announced."""
        return stream_ctx.get(KEY_FILE_SIZE)


class _FileProducer(ObjectProducer):
    """Reads a file in chunks, and counts the replies: it is sent when the last chunk was taken.

    Args:
        resume: ask first what the targets have kept of it.
    """

    window = _WINDOW
    # the file is at hand
    keep_bytes = 0

    def __init__(self, file: BinaryIO, chunk_size: int, timeout: float, file_size: int, *, resume: bool) -> None:
        self._file = file
        self._chunk_size = chunk_size
        self._timeout = timeout
        self._file_size = file_size
        self._asks = resume
        self._eof = False
        self._made = 0
        self._taken = 0
        self._checksum = 0
        #: the targets whose processes have been started again, and do not know the stream
        self.restarted: list[str] = []
        file.seek(0)

    def produce(self, stream_ctx: StreamContext, fl_ctx: FLContext) -> tuple[Shareable | None, float]:
        if self._eof:
            return None, 0.0
        self._made += 1
        chunk = Shareable()
        if self._asks:
            # nothing follows until it is answered
            chunk[KEY_DATA], chunk[KEY_DATA_SIZE], chunk[KEY_EOF], chunk[KEY_KEPT] = b"", 0, False, True
            return chunk, self._timeout + self._file_size / _READ_RATE
        chunk[KEY_OFFSET] = self._file.tell()
        data = self._file.read(self._chunk_size)
        self._checksum = zlib.crc32(data, self._checksum)
        self._eof = len(data) < self._chunk_size
        chunk[KEY_DATA], chunk[KEY_DATA_SIZE], chunk[KEY_EOF] = data, len(data), self._eof
        chunk[KEY_CHECKSUM] = self._checksum
        return chunk, self._timeout

    def process_replies(self, replies: dict[str, Shareable], stream_ctx: StreamContext, fl_ctx: FLContext) -> Any:
        self._taken += 1
        failed = {name: reply for name, reply in replies.items() if reply.get_return_code() != ReturnCode.OK}
        lost = [name for name, reply in failed.items() if reply.get_header(UNKNOWN_STREAM)]
        if len(lost) == len(failed):
            self.restarted = lost
        for name, reply in failed.items():
            error = reply.get_header(ReservedHeaderKey.ERROR, "")
            rc = reply.get_return_code()
            level = logging.INFO if self.restarted else logging.ERROR
            text = "file %r: %s rejected a chunk: %s %s"
            logger.log(level, text, stream_ctx.get(KEY_FILE_NAME), name, rc, error)
        if failed:
            return False
        if self._asks:
            self._asks = False
            self._go_on_behind({(reply.get(KEY_KEPT), reply.get(KEY_CHECKSUM)) for reply in replies.values()})
        return replies if self._eof and self._taken == self._made else None

    def _go_on_behind(self, kept: set[tuple[Any, Any]]) -> None:
        """Go on behind what all targets have kept, if they have the same, and it is the beginning of the file."""
        (offset, checksum), *others = kept
        possible = not others and isinstance(offset, int) and 0 < offset <= self._file_size
        if possible and checksum_of(self._file, offset) == checksum:
            self._checksum = checksum
        else:
            self._file.seek(0)


def _engine(fl_ctx: FLContext) -> StreamableEngine:
    engine = fl_ctx.get_engine()
    if not isinstance(engine, StreamableEngine):
        raise TypeError(f"the engine of the context must be a StreamableEngine, but is a {type(engine).__name__}")
    return engine
