"""Functions that run when they are called; of ``async def`` and of generator functions a call only makes an object."""

from __future__ import annotations

import functools
import inspect
from typing import Any


def why_not_plain(function: Any) -> str:
    """Say why a call of a function, or of a callable object, would run nothing of it; "" if it runs, or is neither."""
    while isinstance(function, functools.partial):
        function = function.func
    if not callable(function) or inspect.isclass(function):
        return ""
    for each in (function, type(function).__call__):
        if inspect.iscoroutinefunction(each) or inspect.isasyncgenfunction(each):
            return "an async function, of which a call runs nothing; write it with `def`, and `asyncio.run` inside it"
        if inspect.isgeneratorfunction(each):
            return "a generator function, of which a call runs nothing; write it without `yield`"
    return ""


def check_overrides(cls: type) -> None:
    """Check that the methods of a class run when they are called where those that they override do.

    Raises:
        TypeError: one is async, or a generator function.
    """
    for name, method in vars(cls).items():
        if inspect.isfunction(method) and (why := why_not_plain(method)):
            above = next((getattr(base, name) for base in cls.__mro__[1:] if hasattr(base, name)), None)
            if inspect.isfunction(above) and not why_not_plain(above):
                raise TypeError(f"{cls.__name__}.{name} is {why}")
