"""Checks of the arguments of workflows."""

from __future__ import annotations


def check_count(name: str, value: int, least: int = 0) -> int:
    """Return a whole number of at least ``least``.

    Raises:
        TypeError: it is no int.
        ValueError: it is too small.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, but is {value!r} ({type(value).__name__})")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, but is {value}")
    return value
