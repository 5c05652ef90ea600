"""``AuditLog``: writes the audit log of a workspace; one process at a time does, the one that holds its lock.

An entry that cannot be written, because the disk is full, waits in memory, and those behind it. A process that was
killed leaves at most the line that it was writing, which the next one keeps aside.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

from redflare_broker.errors import ConfigError

from redflare_workers.util.atomic_file import private_folder, replacing, sync_folder

from .audit import Audit
from .audit_files import file_of, find_end, number_of, submissions
from .entry import NO_HASH, Action, AuditEntry, AuditHead, timestamp

logger = logging.getLogger(__name__)

#: Bytes after which another file is begun.
FILE_BYTES: Final = 16 << 20
#: Entries that wait in memory while they cannot be written.
_MOST_WAITING: Final = 1000
#: Characters of a reason and of other texts.
_REASON: Final = 2000
_TEXT: Final = 500
#: What may be lost in a power cut: the entries behind it, or the next heartbeat, bring it to the disk.
_UNSYNCED: Final = frozenset({Action.FAULT})


class AuditLog(Audit):
    """Opens the log, and goes on with its chain; thread-safe. Close it.

    Args:
        folder: of the log; made when it is missing.
        writer: who writes: ``{"server": "server"}``, ``{"site": "site-1"}``.
        file_bytes: after which another file is begun.
        clock: seconds since 1970.

    Raises:
        ConfigError: the last entry was altered, or a file cannot be read.
    """

    def __init__(
        self,
        folder: Path,
        writer: Mapping[str, str],
        *,
        file_bytes: int = FILE_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        with _readable(folder):
            end = find_end(folder)
        self.folder = folder
        self.writer = dict(writer)
        self._name = next(iter(writer.values()))
        self._file_bytes = file_bytes
        self._clock = clock
        self._guard = threading.Lock()
        self._last = end.last
        self._file = end.file or file_of(folder, 1)
        self._size = end.size
        self._torn = end.torn
        self._handle: int | None = None
        #: the last attempt to write has failed, and may have left something
        self._half_written = False
        self._waiting: deque[dict[str, Any]] = deque()
        self._given_up = 0
        self._obstacle = ""
        self._closed = False
        if end.torn or self._aside.exists():
            self.record(Action.RECOVER, writer, reason="the last line was not written to its end, and was kept aside")
        self.record(Action.OPEN, writer, pid=os.getpid(), host=socket.gethostname())

    @property
    def head(self) -> AuditHead | None:
        """The last entry that was written; None: none was yet."""
        last = self._last
        return last.head if last else None

    def record(
        self, action: Action, subject: Mapping[str, str], *, by: str | None = None, reason: str = "", **facts: Any
    ) -> None:
        """Write an entry, and wait until it is on the disk; or let it wait, if it cannot be written."""
        draft = self._draft(action, subject, by, reason, facts)
        with self._guard:
            if self._closed:
                logger.debug("too late for the audit log: %s", draft)
                return
            if len(self._waiting) < _MOST_WAITING:
                self._waiting.append(draft)
            else:
                self._given_up += 1
            self._write_waiting()

    def obstacle(self) -> str:
        with self._guard:
            if self._obstacle:
                self._write_waiting()
            return self._obstacle

    def recorded(self, action: Action) -> set[str]:
        with _readable(self.folder):
            return submissions(self.folder, action)

    def close(self, reason: str = "") -> None:
        """Write that the process ends, and close the file; what still waits is lost. A second call has no effect."""
        self.record(Action.CLOSE, self.writer, reason=reason)
        with self._guard:
            self._closed = True
            if self._waiting:
                # with the process
                logger.error("%d entries of the audit log are lost: %s", len(self._waiting), self._obstacle)
            self._close_file()

    def _draft(
        self, action: Action, subject: Mapping[str, str], by: str | None, reason: str, facts: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Make what an entry has before it has its place in the chain."""
        return {
            "time": timestamp(self._clock()),
            "action": str(action),
            "subject": {name: _plain(value) for name, value in subject.items()},
            "by": self._name if by is None else _plain(by or "?"),
            "claimed": by is not None,
            "reason": _plain(reason, _REASON),
            "facts": {name: _plain(value) for name, value in facts.items()},
        }

    # -- with the guard ------------------------------------------------------------------------------------------------

    def _write_waiting(self) -> None:
        """Write what waits, in order, until it cannot be."""
        try:
            while self._waiting or self._given_up:
                if not self._waiting:
                    reason = f"{self._given_up} entries could not be written, and were given up"
                    self._waiting.append(self._draft(Action.GAP, self.writer, None, reason, {"count": self._given_up}))
                    self._given_up = 0
                self._write(self._waiting[0])
                self._waiting.popleft()
        except OSError as error:
            text = f"the audit log {self.folder} cannot be written: {error.strerror or error}"
            if text != self._obstacle:
                logger.error("%s; no new job is taken until it can be, those that run go on", text)
            self._obstacle = text
        else:
            if self._obstacle:
                logger.warning("the audit log %s can be written again", self.folder)
            self._obstacle = ""

    def _write(self, draft: dict[str, Any]) -> None:
        """Write one entry, whole or not at all.

        Raises:
            OSError: it cannot be written; the file ends as before.
        """
        if draft["action"] == Action.RECOVER:
            draft["facts"] = self._keep_aside()
        last = self._last
        entry = AuditEntry.make(
            sequence=last.sequence + 1 if last else 1, previous=last.hash if last else NO_HASH, **draft
        )
        line = entry.to_line()
        if self._size and self._size + len(line) > self._file_bytes:
            self._close_file()
            self._file, self._size = file_of(self.folder, number_of(self._file) + 1), 0
        handle = self._open_file()
        self._check_file(handle)
        self._half_written = True
        if os.pwrite(handle, line, self._size) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if entry.action not in _UNSYNCED:
            os.fsync(handle)
        self._half_written = False
        self._size += len(line)
        self._last = entry

    def _check_file(self, handle: int) -> None:
        """Take back what a failed attempt has written; an OSError tells that somebody else has changed the file."""
        there, ours = os.stat(self._file), os.fstat(handle)
        if self._half_written:
            os.ftruncate(handle, self._size)
            self._half_written = False
        elif there.st_ino != ours.st_ino or ours.st_size != self._size:
            text = f"somebody else has changed {self._file.name}; look at it with `redflare audit verify`, and restart"
            raise OSError(errno.ESTALE, text)

    @property
    def _aside(self) -> Path:
        """Where a torn line is kept, by the sequence that it would have had."""
        return self.folder / f"torn-{self._last.sequence + 1 if self._last else 1}"

    def _keep_aside(self) -> dict[str, Any]:
        """Move a torn line into a file of its own, in steps that a successor may repeat; return what is to be known."""
        aside = self._aside
        kept = aside.read_bytes() if aside.exists() else b""
        if self._torn and not kept.endswith(self._torn):
            # the entry about a torn line may be torn itself
            kept += self._torn
            with replacing(aside) as file:
                file.write(kept)
        if self._torn:
            handle = self._open_file()
            os.ftruncate(handle, self._size)
            os.fsync(handle)
            self._torn = b""
        return {"file": aside.name, "bytes": len(kept), "sha256": hashlib.sha256(kept).hexdigest()}

    def _open_file(self) -> int:
        if self._handle is None:
            private_folder(self.folder)
            self._handle = os.open(self._file, os.O_RDWR | os.O_CREAT, 0o600)
            sync_folder(self.folder)
        return self._handle

    def _close_file(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close(f"{exc_info[1]}" if exc_info[1] else "")

    def __repr__(self) -> str:
        return f"<AuditLog {self.folder} of {self._name}, {self._last.sequence if self._last else 0} entries>"


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"the audit log {folder} cannot be read: {error.strerror or error}") from error


def _plain(value: Any, longest: int = _TEXT) -> Any:
    """Return a value as JSON has it, without texts that are too long or cannot be encoded."""
    if isinstance(value, str):
        return value[:longest].encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {_plain(str(name)): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(each) for each in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if value is None or isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 1 << 53):
        return value
    return _plain(str(value))
