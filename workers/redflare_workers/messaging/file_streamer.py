"""``FileStreamer``: sends a file through an object stream, in chunks. After NVFlare's ``FileStreamer``."""

from __future__ import annotations

import logging
import os
import tempfile
import uuid
from pathlib import Path
from typing import Any, BinaryIO, Final

from redflare_workers.apis.fl_constant import ReturnCode
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.shareable import ReservedHeaderKey, Shareable, make_reply
from redflare_workers.apis.streaming import (
    ConsumedCallback,
    ConsumerFactory,
    ObjectConsumer,
    ObjectProducer,
    ProgressCallback,
    StreamableEngine,
    StreamContext,
    StreamContextKey,
    StreamDoneCallback,
)

logger = logging.getLogger(__name__)

#: Keys of a stream context, and of the objects, of a file.
KEY_FILE_NAME: Final = "Streamer.file_name"
KEY_FILE_SIZE: Final = "FileStreamer.file_size"
KEY_FILE_LOCATION: Final = "FileStreamer.file_location"
KEY_DATA: Final = "Streamer.data"
KEY_DATA_SIZE: Final = "Streamer.size"
KEY_EOF: Final = "Streamer.eof"

_CHUNK_SIZE: Final = 1 << 20
_CHUNK_TIMEOUT: Final = 5.0
#: Chunks on their way at once.
_WINDOW: Final = 4


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
        **cb_kwargs: Any,
    ) -> None:
        """Receive the files of a channel and topic.

        Args:
            dest_dir: folder for the files, under unique names; None: that for temporary files.
            stream_done_cb: called at the end as ``cb(stream_ctx, fl_ctx, **cb_kwargs)``. ``get_rc`` returns OK if the
                file is complete, ``get_file_location`` its path: the callback's to move or delete. An incomplete file
                is deleted already.
            chunk_consumed_cb: called after each chunk.

        Raises:
            ValueError: the folder does not exist.
            TypeError: the context's engine cannot stream.
        """
        folder = dest_dir or tempfile.gettempdir()
        if not os.path.isdir(folder):
            raise ValueError(f"dest_dir {folder!r} is not a folder")
        _engine(fl_ctx).register_stream_processing(
            channel,
            topic,
            _FileConsumers(folder),
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
        """Send a file, in this thread, to the end.

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
            producer = _FileProducer(file, size, float(timeout))
            return engine.stream_objects(
                channel, topic, context, targets, producer, fl_ctx, optional, secure, progress_cb=progress_cb
            )

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
    """Reads a file in chunks, and counts the replies: it is sent when the last chunk was taken."""

    window = _WINDOW

    def __init__(self, file: BinaryIO, chunk_size: int, timeout: float) -> None:
        self._file = file
        self._chunk_size = chunk_size
        self._timeout = timeout
        self._eof = False
        self._made = 0
        self._taken = 0

    def produce(self, stream_ctx: StreamContext, fl_ctx: FLContext) -> tuple[Shareable | None, float]:
        if self._eof:
            return None, 0.0
        data = self._file.read(self._chunk_size)
        self._eof = len(data) < self._chunk_size
        self._made += 1
        chunk = Shareable()
        chunk[KEY_DATA], chunk[KEY_DATA_SIZE], chunk[KEY_EOF] = data, len(data), self._eof
        return chunk, self._timeout

    def process_replies(self, replies: dict[str, Shareable], stream_ctx: StreamContext, fl_ctx: FLContext) -> Any:
        self._taken += 1
        failed = {name: reply for name, reply in replies.items() if reply.get_return_code() != ReturnCode.OK}
        for name, reply in failed.items():
            error = reply.get_header(ReservedHeaderKey.ERROR, "")
            rc = reply.get_return_code()
            logger.error("file %r: %s rejected a chunk: %s %s", stream_ctx.get(KEY_FILE_NAME), name, rc, error)
        if failed:
            return False
        return replies if self._eof and self._taken == self._made else None


class _FileConsumers(ConsumerFactory):
    def __init__(self, folder: str) -> None:
        self._folder = folder

    def get_consumer(self, stream_ctx: StreamContext, fl_ctx: FLContext) -> ObjectConsumer:
        return _FileConsumer(stream_ctx, self._folder)


class _FileConsumer(ObjectConsumer):
    """Writes one file, and deletes it if it stays incomplete."""

    def __init__(self, stream_ctx: StreamContext, folder: str) -> None:
        size = stream_ctx.get(KEY_FILE_SIZE)
        if not isinstance(size, int) or size < 0:
            raise ValueError(f"the sender of a file must announce its size, but announced {size!r:.200}")
        self._size = size
        self._path = Path(folder, str(uuid.uuid4()))
        self._file = self._path.open("xb")
        self._received = 0
        stream_ctx[KEY_FILE_LOCATION] = str(self._path)

    def consume(self, shareable: Shareable, stream_ctx: StreamContext, fl_ctx: FLContext) -> tuple[bool, Shareable]:
        data, size, eof = shareable.get(KEY_DATA), shareable.get(KEY_DATA_SIZE), shareable.get(KEY_EOF)
        if not isinstance(data, bytes | bytearray | memoryview):
            data = b""
        given = len(data)
        if given != size:
            raise ValueError(f"a chunk of {size!r:.200} bytes was announced, but {given} came")
        self._received += given
        if self._received > self._size or (eof and self._received != self._size):
            raise ValueError(f"{self._size} bytes of the file were announced, but {self._received} came")
        self._file.write(data)
        if eof:
            # a full disk must fail before the last chunk is acknowledged
            self._file.flush()
        return not eof, make_reply(ReturnCode.OK)

    def finalize(self, stream_ctx: StreamContext, fl_ctx: FLContext) -> None:
        try:
            self._file.close()
        finally:
            complete = stream_ctx.get(StreamContextKey.RC) == ReturnCode.OK and self._received == self._size
            if not complete:
                self._path.unlink(missing_ok=True)


def _engine(fl_ctx: FLContext) -> StreamableEngine:
    engine = fl_ctx.get_engine()
    if not isinstance(engine, StreamableEngine):
        raise TypeError(f"the engine of the context must be a StreamableEngine, but is a {type(engine).__name__}")
    return engine
