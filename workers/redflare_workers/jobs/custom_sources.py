"""Find the source files that a job must bring, so that a site can import its classes."""

from __future__ import annotations

import importlib
import inspect
import sysconfig
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from redflare_broker.errors import ConfigError

_OWN: Final = ("redflare_agent", "redflare_broker", "redflare_workers")


def sources_of(classes: Iterable[Callable[..., Any]], further: Iterable[Path]) -> dict[str, bytes]:
    """Collect the files of an app's ``custom`` folder, by path.

    Args:
        classes: their modules, or whole packages, are taken unless they are installed.
        further: modules and packages that are taken too.

    Raises:
        ConfigError: the source of a module cannot be found.
    """
    tops = dict.fromkeys(cls.__module__.partition(".")[0] for cls in classes)
    found = [place for top in tops if (place := _place_of(top)) is not None]
    files: dict[str, bytes] = {}
    for place in dict.fromkeys([*found, *(path.resolve() for path in further)]):
        if place.is_dir():
            for path in sorted(place.rglob("*.py")):
                files[f"{place.name}/{path.relative_to(place).as_posix()}"] = path.read_bytes()
        else:
            files[place.name] = place.read_bytes()
    return files


def _place_of(top: str) -> Path | None:
    """Find the file or folder of a top-level module; None: sites must have it installed."""
    if top in _OWN:
        return None
    module = importlib.import_module(top)
    file = getattr(module, "__file__", None)
    paths = list(getattr(module, "__path__", []))
    if file is None and not paths:
        return None
    place = Path(paths[0] if paths else str(file)).resolve()
    installed = [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib")]
    if any(place.is_relative_to(folder) for folder in installed):
        return None
    if not place.is_dir() and not (place.suffix == ".py" and inspect.getsourcefile(module)):
        raise ConfigError(f"the source of module {top} cannot be sent along: {place}; have it installed at the sites")
    return place
