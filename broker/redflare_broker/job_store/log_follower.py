"""Following a job's log live: blocked in Redis, woken by each line, ended by the job's end."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Final, cast

from redflare_broker.errors import DecodeError, Unavailable
from redflare_broker.keys import StoreKeys
from redflare_broker.runtime.primary_watch import PrimaryWatch
from redflare_broker.transport.connection import Arg, Connection
from redflare_broker.transport.server import Server
from redflare_broker.util.backoff import Backoff

from .record import LogLine, is_finished, read_line

_MARGIN_SECONDS: Final = 5.0
#: Lines that are read in one go.
_PAGE: Final = 500

_log = logging.getLogger(__name__)

Entries = list[tuple[bytes, list[bytes]]]


class JobLogFollower:
    """The lines of a job's log: first those that stand there, then those that come; a context manager and an iterator.

    It connects again for as long as it takes, and at once when Sentinels have made another server the primary. The
    iterator ends when the job is over and all of its lines were told, when the job is deleted, and when the follower is
    closed.

    Args:
        server: the federation's Redis.
        keys: of the store.
        job_id: the job's.
        after: id of the last line that is known.
        block: seconds of one read; then it looks whether the job is still there.
    """

    def __init__(
        self, server: Server, keys: StoreKeys, job_id: str, after: str = "0-0", *, block: float = 30.0
    ) -> None:
        #: Id of the last line that was told.
        self.last = after
        self._server = server
        self._record = keys.record(job_id)
        self._key = keys.log(job_id)
        self._block = block
        self._over = False
        self._primary_watch = PrimaryWatch(server)
        self._stopped = threading.Event()
        self._guard = threading.Lock()
        self._connection: Connection | None = None

    def __iter__(self) -> Iterator[LogLine]:
        """Yield the next lines; again from where an earlier iterator was left."""
        self._primary_watch.start()
        backoff = Backoff()
        while not self._stopped.is_set():
            try:
                yield from self._connected()
                return
            except Unavailable as error:
                if self._stopped.is_set():
                    return
                _log.log(backoff.level(error, logging.WARNING), "log of %s: %s; trying again", self._key, error)
                self._stopped.wait(backoff.next_delay())

    def _connected(self) -> Iterator[LogLine]:
        connection = self._server.connection(self._key)
        with self._guard:
            self._connection = connection
            if self._stopped.is_set():
                connection.interrupt()
        try:
            self._over = self._look(connection)
            while True:
                entries = self._read(connection)
                for line in parse_lines(self._key, entries):
                    self._over = self._over or is_finished(line.status)
                    self.last = line.id
                    yield line
                if entries:
                    self.last = entries[-1][0].decode()
                elif self._over:
                    return
                else:
                    self._over = self._look(connection)
        finally:
            with self._guard:
                self._connection = None
            connection.close()

    def _read(self, connection: Connection) -> Entries:
        wait: list[Arg] = [] if self._over else ["BLOCK", round(self._block * 1000)]
        streams = connection.call(
            *("XREAD", "COUNT", _PAGE, *wait, "STREAMS", self._key, self.last), timeout=self._block + _MARGIN_SECONDS
        )
        return cast("list[tuple[bytes, Entries]]", streams)[0][1] if streams else []

    def _look(self, connection: Connection) -> bool:
        """Whether the job is over, or gone."""
        status = connection.call("HGET", self._record, "status")
        return not isinstance(status, bytes) or is_finished(status.decode("utf-8", "replace"))

    def close(self) -> None:
        """End the iterator; from any thread, and again."""
        self._stopped.set()
        with self._guard:
            if self._connection is not None:
                self._connection.interrupt()
        self._primary_watch.stop()

    def __enter__(self) -> JobLogFollower:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


def parse_lines(key: str, entries: Entries) -> list[LogLine]:
    """Return the lines among some entries; what is none is left out, with a warning."""
    lines = []
    for entry_id, flat in entries:
        try:
            lines.append(read_line(key, entry_id.decode(), flat))
        except DecodeError as error:
            _log.warning("%s", error)
    return lines
