"""Which class a config names, without importing it; and which of redflare's may be named."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from .words import did_you_mean

#: What of redflare may be named in a job: its components, and nothing that starts processes or opens connections.
SHIPPED: Final = ("redflare_workers.apis.*", "redflare_workers.ipc.exchanger.*", "redflare_workers.workflow.*")
OWN: Final = "redflare_workers."

#: Classes that a config may give by ``name`` alone.
BY_NAME: Final = {
    "CrossSiteEval": "redflare_workers.workflow.CrossSiteEval",
    "Cyclic": "redflare_workers.workflow.Cyclic",
    "FedAvg": "redflare_workers.workflow.FedAvg",
    "FedBuff": "redflare_workers.workflow.FedBuff",
    "IPCExchanger": "redflare_workers.ipc.exchanger.IPCExchanger",
}

_DOTTED: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)
_PLAIN: Final = "dict"
#: The keys of a component; a dict with others is a dict.
_KEYS: Final = frozenset({"id", "path", "class_path", "name", "args", "config_type", "disabled"})
#: An argument that is another component of the config.
_REFERENCE: Final = "component_id"


class BadPath(ValueError):
    """What is there names no class; the text says why."""


def class_path_of(data: Mapping[str, Any]) -> str:
    """The class path of ``{path | class_path | name, ...}``; the first of these that is there counts, as in NVFlare.

    Raises:
        BadPath: it is none.
    """
    key = next((word for word in ("path", "class_path", "name") if word in data), None)
    if key is None:
        raise BadPath("has no path; say which class it is")
    value = data[key]
    if key == "name":
        if not isinstance(value, str) or value not in BY_NAME:
            hint = did_you_mean(str(value), BY_NAME)
            raise BadPath(f"name {value!r} is none of redflare's components{hint}; give the whole path of others")
        return BY_NAME[value]
    if not isinstance(value, str) or not _DOTTED.fullmatch(value):
        raise BadPath(f"{key} must be a module and a class with a dot between them, but is {value!r}")
    if any(part.startswith("__") for part in value.split(".")):
        raise BadPath(f"{key} {value!r} names something with __ at its beginning, which is no component")
    return value


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
    """The id in ``{"component_id": id}``; None: it is something else."""
    return value[_REFERENCE] if isinstance(value, dict) and set(value) == {_REFERENCE} else None


def admits(patterns: Iterable[str], path: str) -> bool:
    """Whether one of the patterns matches."""
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)
