"""``LineQueue``: lines of a log that wait to be sent or written, bounded in bytes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from redflare_broker.util import humanize

#: Bytes of lines of one job and sender that may wait; more are left out, and are only in the log file.
MOST_BYTES: Final = 1 << 20
#: Characters of one line; the rest is cut.
LINE: Final = 8192
#: Lines and bytes that are taken at once.
_BATCH_LINES: Final = 500
_BATCH_BYTES: Final = 256 << 10


class LineQueue:
    """Lines of one job and one sender; not thread-safe.

    When lines are left out, a note stands in their place, as soon as there is room for others or all have been taken.
    """

    def __init__(self) -> None:
        self._lines: deque[tuple[str, int]] = deque()
        self._left_out = self._left_out_bytes = 0
        #: of the lines that wait
        self.nbytes = 0

    def add(self, lines: Iterable[str], most: int = MOST_BYTES) -> None:
        """Add lines; ``most``: bytes that may wait."""
        for line in lines:
            cut = line if len(line) <= LINE else line[: LINE - 3] + "..."
            size = len(cut.encode("utf-8", "replace"))
            if self.nbytes + size > most:
                self._left_out += 1
                self._left_out_bytes += len(line)
                continue
            self._note()
            self._append(cut, size)

    def take(self) -> list[str]:
        """Take the first lines out, as many as are sent or written at once."""
        taken: list[str] = []
        left = _BATCH_BYTES
        while self._lines and len(taken) < _BATCH_LINES and (left > 0 or not taken):
            line, size = self._lines.popleft()
            taken.append(line)
            left -= size
            self.nbytes -= size
        if not self._lines:
            self._note()
        return taken

    def _note(self) -> None:
        if self._left_out:
            size = humanize.size(self._left_out_bytes)
            text = f"({self._left_out} lines, {size}, are left out here: they came too fast; the log file has them)"
            self._left_out = self._left_out_bytes = 0
            self._append(text, len(text))

    def _append(self, line: str, size: int) -> None:
        self._lines.append((line, size))
        self.nbytes += size

    def __len__(self) -> int:
        """Return how many lines wait."""
        return len(self._lines)

    def __repr__(self) -> str:
        return f"<LineQueue of {len(self._lines)} lines, {self.nbytes} bytes>"
