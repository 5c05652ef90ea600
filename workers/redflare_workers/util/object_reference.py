"""Things of the user's that a command is given by name: ``module:function``."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from types import ModuleType
from typing import Any

from redflare_broker.errors import ConfigError


def named(reference: str, option: str) -> Any:
    """What ``module:name`` stands for; modules are also looked for in the current folder.

    Args:
        option: how the command calls it, for the error.

    Raises:
        ConfigError: there is no such thing; says which part of the name is wrong.
    """
    module_name, colon, name = reference.partition(":")
    if not colon or not module_name or not name:
        raise ConfigError(f"{option} must be module:name, such as trainer:train, but is {reference!r}")
    if "/" in module_name or module_name.endswith(".py"):
        meant = module_name.removesuffix(".py").strip("./").replace("/", ".")
        raise ConfigError(f"{option} {reference!r} names a file; name the module: {meant}:{name}")
    value: Any = _module(module_name, option)
    for part in name.split("."):
        if not hasattr(value, part):
            raise ConfigError(f"{option}: {_nothing_there(value, part, module_name)}")
        value = getattr(value, part)
    return value


def beside(reference: str, name: str) -> Any:
    """What has this name in the module of a reference that ``named`` has read; None: nothing."""
    return getattr(sys.modules[reference.partition(":")[0]], name, None)


def _module(name: str, option: str) -> ModuleType:
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise ConfigError(
                f"{option}: there is no module {error.name!r}, neither installed nor in {folder}"
            ) from error
        raise ConfigError(f"{option}: module {name!r} needs {error.name!r}, which is not installed") from error
    except Exception as error:  # whatever the user's module raises
        raise ConfigError(f"{option}: module {name!r} cannot be imported: {type(error).__name__}: {error}") from error


def _nothing_there(owner: Any, name: str, module: str) -> str:
    public = [each for each in vars(owner) if not each.startswith("_")] if hasattr(owner, "__dict__") else []
    alike = difflib.get_close_matches(name, public, n=1)
    functions = sorted(each for each in public if getattr(getattr(owner, each), "__module__", None) == module)
    said = f"module {module!r} has no {name!r}"
    if alike:
        return f"{said}; did you mean {alike[0]!r}?"
    return f"{said}; it has {', '.join(functions)}" if functions else said
