"""Class paths in a config: read without importing anything, and matched against the patterns that a site allows."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from redflare_broker.util.did_you_mean import did_you_mean

from redflare_workers import workflow

OWN: Final = "redflare_workers."

#: Classes that a config may give by ``name`` alone.
BY_NAME: Final = {
    "IPCExchanger": "redflare_workers.IPCExchanger",
    **{name: f"redflare_workers.workflow.{name}" for name in ("CrossSiteEval", "Cyclic", "FedAvg", "FedBuff")},
}

#: The other path of a class that has two: where it is exported, and where it is defined.
_OTHER_PATH: Final = {
    "redflare_workers.IPCExchanger": "redflare_workers.ipc.exchanger.IPCExchanger",
    "redflare_workers.ipc.exchanger.IPCExchanger": "redflare_workers.IPCExchanger",
}

_DOTTED: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)
_PLAIN: Final = "dict"
#: The keys of a component; a dict with others is a dict.
_KEYS: Final = frozenset({"id", "path", "class_path", "name", "args", "config_type", "disabled"})
#: An argument that is another component of the config.
_REFERENCE: Final = "component_id"


class BadPath(ValueError):
    """The value is not a class path; the message says why."""


def class_path_of(data: Mapping[str, Any]) -> str:
    """Return the class path of ``{path | class_path | name, ...}``; the first of these keys counts, as in NVFlare.

    Raises:
        BadPath: the value is not a class path.
    """
    key = next((word for word in ("path", "class_path", "name") if word in data), None)
    if key is None:
        raise BadPath("has no path; name the class")
    value = data[key]
    if key == "name":
        if not isinstance(value, str) or value not in BY_NAME:
            hint = did_you_mean(str(value), BY_NAME)
            raise BadPath(
                f"name {value!r} is not one of redflare's components{hint}; give the full class path of others"
            )
        return BY_NAME[value]
    if not isinstance(value, str) or not _DOTTED.fullmatch(value):
        raise BadPath(f"{key} must be a module and a class with a dot between them, but is {value!r}")
    if any(part.startswith("__") for part in value.split(".")):
        raise BadPath(f"{key} {value!r} has a part that begins with __, which is not a component")
    return value


def public_path(maker: Callable[..., Any]) -> str:
    """Return the class path of a class or function; where redflare exports it, the exported one."""
    name, path = maker.__qualname__, f"{maker.__module__}.{maker.__qualname__}"
    if getattr(workflow, name, None) is maker:
        return f"{workflow.__name__}.{name}"
    return _OTHER_PATH.get(path, path)


def is_component(value: Any) -> bool:
    """Whether an argument describes a component, and is not a dict that happens to have a ``path``."""
    if not isinstance(value, dict) or value.get("config_type") == _PLAIN or not _KEYS.issuperset(value):
        return False
    try:
        class_path_of(value)
    except BadPath:
        return False
    return True


def reference_of(value: Any) -> Any:
    """Return the id in ``{"component_id": id}``; None for anything else."""
    return value[_REFERENCE] if isinstance(value, dict) and set(value) == {_REFERENCE} else None


def names(allow: Iterable[str], path: str) -> bool:
    """Whether a class path, or the other path of the same class, is in an allow-list by its whole name."""
    return not {path, _OTHER_PATH.get(path, path)}.isdisjoint(allow)


def allows(patterns: Iterable[str], path: str) -> bool:
    """Whether one of the patterns matches a class path, or the other path of the same class."""
    paths = (path, _OTHER_PATH.get(path, path))
    return any(fnmatch.fnmatchcase(each, pattern) for pattern in patterns for each in paths)
