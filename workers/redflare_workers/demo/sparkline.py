"""Counts as a row of bars, one character each."""

from __future__ import annotations

from collections.abc import Sequence

BARS = "▁▂▃▄▅▆▇█"


def sparkline(counts: Sequence[int], top: int) -> str:
    """Draw one character per count; ``top`` is a full bar, and 0 a dot, so that skew is seen at a glance."""
    return "".join("·" if count == 0 else BARS[min(len(BARS) - 1, count * len(BARS) // (top + 1))] for count in counts)
