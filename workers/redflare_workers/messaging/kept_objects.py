"""``KeptObjects``: what a stream has sent, encoded, for a receiver whose process is started again."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
from redflare_broker.payload.encoded_payload import EncodedPayload
from redflare_broker.util import humanize
from redflare_broker.wire.message_entry import pack_meta, unpack_meta

logger = logging.getLogger(__name__)

#: Bytes that are kept in memory; more of them are in a temporary file.
_IN_MEMORY: Final = 8 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamObject:
    """One object of a stream, as it is sent."""

    #: its place in the stream, from 0
    number: int
    #: meta of its Shareable
    carried: dict[str, Any] = field(repr=False)
    #: data of its Shareable
    payload: EncodedPayload
    #: seconds that a target has to answer it
    timeout: float

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays and bytes."""
        blob = self.payload.blob
        return blob.nbytes if blob is not None else sum(map(len, self.payload.buffers))


class KeptObjects:
    """The objects of one stream, all of them from its first on, or none; not thread-safe.

    The file has no name, so nothing is left when the process is killed.

    Args:
        limit: bytes that are kept, at most; a stream that is longer is not kept at all.
        stream: names the stream in the log.
    """

    def __init__(self, limit: int, stream: str) -> None:
        self._limit = limit
        self._stream = stream
        self._nbytes = 0
        self._file: tempfile.SpooledTemporaryFile[bytes] | None = None
        #: why nothing is kept; "": all that was added is
        self.missing = "" if limit else "keep_bytes of their producer is 0"

    def add(self, sent: StreamObject) -> None:
        """Keep the next object, unless the stream becomes too long or the disk is full: then keep nothing any more."""
        if self.missing:
            return
        payload = sent.payload
        parts = [pack_meta(sent.carried), payload.data, *payload.buffers]
        sizes = [len(part) for part in parts]
        self._nbytes += sum(sizes)
        if payload.blob is not None:
            self._give_up(f"object {sent.number} was passed on undecoded, and its receiver has deleted it")
        elif self._nbytes > self._limit:
            self._give_up(f"they are more than {humanize.size(self._limit)}, the keep_bytes of their producer")
        else:
            self._write(orjson.dumps([sent.number, sent.timeout, sizes]) + b"\n", parts)

    def __iter__(self) -> Iterator[StreamObject]:
        """Read the objects in their order. Raises OSError: the file cannot be read."""
        if self._file is None:
            return
        self._file.seek(0)
        while head := self._file.readline():
            number, timeout, sizes = orjson.loads(head)
            carried, data, *buffers = (self._file.read(size) for size in sizes)
            payload = EncodedPayload(data, tuple(buffers))
            yield StreamObject(number=number, carried=unpack_meta(carried), payload=payload, timeout=timeout)

    def close(self) -> None:
        """Delete what is kept. May be called again."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _write(self, head: bytes, parts: list[bytes | memoryview]) -> None:
        try:
            if self._file is None:
                self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115  # until close
            self._file.seek(0, 2)
            for part in (head, *parts):
                self._file.write(part)
        except OSError as error:
            self._give_up(f"they could not be written to {tempfile.gettempdir()}: {error}")

    def _give_up(self, why: str) -> None:
        self.missing = why
        self.close()
        logger.info("stream %s is not kept for a receiver that is started again: %s", self._stream, why)

    def __repr__(self) -> str:
        return f"<KeptObjects of {self._stream}: {self.missing or humanize.size(self._nbytes)}>"
