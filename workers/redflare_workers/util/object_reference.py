"""Python objects that a command gets by name: ``module:function``."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from types import ModuleType
from typing import Any

from redflare_broker.errors import ConfigError


def named(reference: str, option: str) -> Any:
    """Import the object that ``module:name`` refers to; the current folder is searched too.

    Args:
        option: the command's name for the reference, for the error.

    Raises:
        ConfigError: it cannot be found; the message says which part of the name is wrong.
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
            raise ConfigError(f"{option}: {_missing(value, part, module_name)}")
        value = getattr(value, part)
    return value


def beside(reference: str, name: str) -> Any:
    """Return another object of the module of a reference that ``named`` has imported, or None."""
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


def _missing(owner: Any, name: str, module: str) -> str:
    public = [each for each in vars(owner) if not each.startswith("_")] if hasattr(owner, "__dict__") else []
    alike = difflib.get_close_matches(name, public, n=1)
    functions = sorted(each for each in public if getattr(getattr(owner, each), "__module__", None) == module)
    error = f"module {module!r} has no {name!r}"
    if alike:
        return f"{error}; did you mean {alike[0]!r}?"
    return f"{error}; it has {', '.join(functions)}" if functions else error
