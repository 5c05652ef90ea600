"""Write ages, sizes, times and lists for people, in the CLI and in the reasons that the views give."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"))


def age(seconds: float) -> str:
    """``0.4`` is "0.4 s", ``12`` "12 s", ``150`` "2 min", ``7300`` "2 h", ``200000`` "2 d"."""
    seconds = max(0.0, seconds)
    if seconds >= 59.5:
        seconds = max(60.0, seconds)
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{seconds:.1f} s" if 0.05 <= seconds < 0.95 else f"{seconds:.0f} s"


def size(count: int) -> str:
    """``900`` is "900 B", ``1500000`` "1.5 MB"; decimal units."""
    if count < 1000:
        return f"{count} B"
    value = count / 1000
    for unit in ("kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.1f} {unit}" if value < 99.95 else f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def moment(ms: int) -> datetime:
    """Milliseconds of Redis's clock as a time in UTC."""
    return datetime.fromtimestamp(ms / 1000, UTC)


def iso(ms: int) -> str:
    """``1763806515432`` is "2025-11-22T10:15:15.432Z"; "" for 0, which means never."""
    return moment(ms).strftime("%Y-%m-%dT%H:%M:%S.") + f"{ms % 1000:03d}Z" if ms else ""


def first(texts: Sequence[str], most: int, between: str = ", ", last: str = " ") -> str:
    """``site-1, site-2 and 3 more``: name the first texts, and count the rest; ``last`` stands before its "and"."""
    rest = len(texts) - most
    return between.join(texts[:most]) + (f"{last}and {rest} more" if rest > 0 else "")
