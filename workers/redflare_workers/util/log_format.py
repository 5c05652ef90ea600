"""The log of every process: one format, in which no message can pretend to be another line."""

from __future__ import annotations

import logging
import re
import sys
from typing import Final

from redflare_broker.util.visible import visible

_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
#: Before the lines of a message behind its first.
_INDENT: Final = "  "


#: A line of ``_FORMAT``.
_LINE: Final = re.compile(
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (DEBUG|INFO|WARNING|ERROR|CRITICAL) [\w.]+: (.*)", re.DOTALL
)


def level_and_text(line: str) -> tuple[str, str]:
    """Take a line of a process's log apart; one that it has printed has no level, and is all text."""
    found = _LINE.fullmatch(line)
    return (found[1], found[2]) if found else ("", line)


class VisibleFormatter(logging.Formatter):
    """Makes control codes visible, and indents all lines of a message but the first."""

    def __init__(self) -> None:
        super().__init__(_FORMAT)

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record)).replace("\n", f"\n{_INDENT}")


def log_to_stderr(level: int | str = logging.INFO) -> None:
    """Write the log of this process to standard error, unless it is set up already."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(VisibleFormatter())
    logging.basicConfig(level=level, handlers=[handler])
