"""Compare the arguments in a config with those that the constructor of a component takes."""

from __future__ import annotations

import inspect
import os
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from redflare_broker.util.did_you_mean import did_you_mean

from .problems import listed

_BY_NAME: Final = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def parameters_of(target: Callable[..., Any]) -> Mapping[str, inspect.Parameter] | None:
    """Return the parameters of a class or function; None if it does not tell."""
    try:
        return inspect.signature(target).parameters
    except (TypeError, ValueError):
        return None


def misfits(
    owner: str, parameters: Mapping[str, inspect.Parameter] | None, given: Iterable[str], site: Iterable[str] = ()
) -> list[tuple[str, str]]:
    """Find arguments that a constructor does not take, and those that are missing, as (name or "", text).

    Args:
        owner: name of the class or function.
        parameters: of its constructor; None: unknown, and all arguments pass.
        given: names of the arguments.
        site: names of arguments that the site sets, and a job must not.
    """
    if parameters is None:
        return []
    named = {name: each for name, each in parameters.items() if each.kind in _BY_NAME}
    open_ended = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
    theirs, ours = set(given), set(site)
    found = []
    for name in sorted(theirs):
        if name in ours and name in named:
            found.append((name, "is set by the site, not by a job; leave it out"))
        elif name not in named and not open_ended:
            free = named.keys() - ours
            takes = f"takes {listed(free)}" if free else "takes none"
            found.append((name, f"is not an argument of {owner}, which {takes}{did_you_mean(name, free)}"))
    needed = {name for name, each in named.items() if each.default is inspect.Parameter.empty}
    if missing := needed - theirs - ours:
        found.append(("", f"{owner} needs {listed(missing)} too"))
    return found


def path_arguments(target: Callable[..., Any]) -> frozenset[str]:
    """Return the names of arguments that are annotated as paths of files or folders."""
    init = target.__init__ if inspect.isclass(target) else target
    try:
        hints = typing.get_type_hints(init)
    except NameError:
        return frozenset(name for name, hint in getattr(init, "__annotations__", {}).items() if "Path" in str(hint))
    return frozenset(name for name, hint in hints.items() if _may_be_path(hint))


def _may_be_path(hint: Any) -> bool:
    origin = typing.get_origin(hint)
    kind = origin or hint
    if inspect.isclass(kind) and issubclass(kind, os.PathLike):
        return True
    return any(_may_be_path(each) for each in typing.get_args(hint))


def known_of(target: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that ``target`` has an argument for."""
    parameters = inspect.signature(target).parameters
    return {name: value for name, value in values.items() if name in parameters}
