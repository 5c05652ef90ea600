"""What the source of a class or function tells of it, without running it."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from inspect import Parameter

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def is_based_on_nothing(node: Definition) -> bool:
    """Whether it is a class without bases, so that it is an instance of nothing but itself."""
    bases = node.bases if isinstance(node, ast.ClassDef) else [node]
    plain = all(isinstance(base, ast.Name) and base.id == "object" for base in bases)
    return plain and isinstance(node, ast.ClassDef) and not node.keywords and not node.decorator_list


def source_parameters(node: Definition) -> Mapping[str, Parameter] | None:
    """Return the parameters of a function, or of the ``__init__`` of a class; None if the source does not tell."""
    if node.decorator_list:
        return None
    if not isinstance(node, ast.ClassDef):
        return _parameters(node.args, skip=0)
    inside = [each for each in node.body if isinstance(each, ast.FunctionDef)]
    inits = [each for each in inside if each.name == "__init__"]
    if len(inits) != 1 or inits[0].decorator_list or node.keywords or any(each.name == "__new__" for each in inside):
        return None
    return _parameters(inits[0].args, skip=1)


def _parameters(args: ast.arguments, *, skip: int) -> dict[str, Parameter]:
    """Return parameters by name, without the first ones."""
    positional = list(_positional(args))[skip:]
    return {each.name: each for each in (*positional, *_others(args))}


def _positional(args: ast.arguments) -> Iterator[Parameter]:
    both = [*args.posonlyargs, *args.args]
    for place, arg in enumerate(both):
        kind = Parameter.POSITIONAL_ONLY if place < len(args.posonlyargs) else Parameter.POSITIONAL_OR_KEYWORD
        optional = place >= len(both) - len(args.defaults)
        yield Parameter(arg.arg, kind, default=None if optional else Parameter.empty)


def _others(args: ast.arguments) -> Iterator[Parameter]:
    for arg, default in zip(args.kwonlyargs, args.kw_defaults, strict=True):
        yield Parameter(arg.arg, Parameter.KEYWORD_ONLY, default=None if default else Parameter.empty)
    if args.vararg:
        yield Parameter(args.vararg.arg, Parameter.VAR_POSITIONAL)
    if args.kwarg:
        yield Parameter(args.kwarg.arg, Parameter.VAR_KEYWORD)
