"""Compare values of a config with the annotations of the constructor that gets them.

A config holds JSON values only, so only what they can be is judged: numbers, texts, lists, dicts and their unions. Any
other annotation (an array, a class of somebody) is left to the constructor.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections import abc
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Final

#: Annotations for which a config gives a list.
_LISTS: Final = (list, tuple, set, frozenset, abc.Sequence, abc.Collection, abc.Iterable, abc.Set)
_DICTS: Final = (dict, abc.Mapping, abc.MutableMapping)
_UNIONS: Final = (typing.Union, types.UnionType)
#: What a value is called in a config.
_NAMES: Final = {type(None): "null", bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def hints_of(target: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotations of the arguments of a class or function; none where they cannot be resolved here."""
    try:
        # of __init__, or of __new__, whichever takes the arguments
        signature = inspect.signature(target, eval_str=True)
    except Exception:
        # whatever a foreign annotation raises, such as the NameError of a name that only type checkers know
        return {}
    return {
        name: each.annotation | None if each.default is None and _is_type(each.annotation) else each.annotation
        for name, each in signature.parameters.items()
        if each.annotation is not inspect.Parameter.empty and each.kind is not inspect.Parameter.VAR_KEYWORD
    }


def misfit(value: Any, hint: Any, is_built: Callable[[Any], bool]) -> str:
    """Say why a value is not what an annotation wants: ``must be a whole number, but is 'three'``; "" if it fits.

    Args:
        is_built: whether a value stands for an object that is built from it, and is not judged.
    """
    if _fits(value, hint, is_built):
        return ""
    shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return f"must be {_name(hint)}, but is {shown:.80}"


def _fits(value: Any, hint: Any, is_built: Callable[[Any], bool]) -> bool:
    if is_built(value):
        return True
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if options := _options(origin, args):
        return any(_fits(value, each, is_built) for each in options)
    if origin is typing.Literal:
        return any(value == each and isinstance(value, bool) is isinstance(each, bool) for each in args)
    kind = origin or hint
    if kind in _LISTS:
        items = [each for each in args if each is not ...]
        return isinstance(value, list) and (len(items) != 1 or all(_fits(each, items[0], is_built) for each in value))
    if kind in _DICTS:
        fits = [_fits(each, args[1], is_built) for each in value.values()] if args and isinstance(value, dict) else []
        return isinstance(value, dict) and all(fits)
    return kind is not abc.Callable and _is_a(value, kind)


def _options(origin: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the types that a union is of, or the one that is annotated; none for anything else."""
    return args if origin in _UNIONS else args[:1] if origin is typing.Annotated else ()


def _is_a(value: Any, kind: Any) -> bool:
    """Whether a value is of a plain type; any that is not judged counts as one."""
    if kind is None or kind in _NAMES:
        wanted = type(None) if kind is None else (int, float) if kind is float else kind
        return isinstance(value, wanted) and (kind is bool or not isinstance(value, bool))
    if inspect.isclass(kind) and issubclass(kind, Enum):
        return any(value == each.value for each in kind)
    return not _is_path(kind) or isinstance(value, str)


def _is_path(kind: Any) -> bool:
    return inspect.isclass(kind) and hasattr(kind, "__fspath__")


def _is_type(hint: Any) -> bool:
    """Whether ``hint | None`` is an annotation."""
    return inspect.isclass(hint) or typing.get_origin(hint) in (*_UNIONS, *_LISTS, *_DICTS)


def _name(hint: Any) -> str:
    """Return an annotation in words: ``a whole number or null``."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if options := _options(origin, args):
        return " or ".join(dict.fromkeys(_name(each) for each in options))
    kind = origin or hint
    is_enum = inspect.isclass(kind) and issubclass(kind, Enum)
    if is_enum or origin is typing.Literal:
        return "one of " + ", ".join(repr(each) for each in ([each.value for each in kind] if is_enum else args))
    if kind in _LISTS or kind in _DICTS:
        return "a list" if kind in _LISTS else "a dict"
    if kind is abc.Callable or _is_path(kind):
        return "a path" if _is_path(kind) else "a component"
    return _NAMES.get(type(None) if kind is None else kind, getattr(kind, "__name__", str(kind)))


def wrong_types(
    target: Callable[..., Any], args: Mapping[str, Any], is_built: Callable[[Any], bool]
) -> list[tuple[str, str]]:
    """Find the arguments whose values are not what the constructor's annotations want, as (name, text)."""
    hints = hints_of(target)
    found = [(name, misfit(value, hints[name], is_built)) for name, value in args.items() if name in hints]
    return [(name, text) for name, text in found if text]
