"""The code that a job brings in an app's ``custom`` folder: collected from modules, and examined without running it."""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from redflare_broker.errors import ConfigError
from redflare_broker.util.did_you_mean import did_you_mean

from .problems import Problem
from .source_signature import Definition

_OWN: Final = frozenset({"redflare_agent", "redflare_broker", "redflare_workers"})
#: ``ast.parse`` in two threads raises SystemError when garbage is collected in the middle of both (CPython 3.11).
_PARSING: Final = threading.Lock()


@dataclass(eq=False)
class CustomCode:
    """Python files of one app."""

    #: by path below ``custom``
    files: Mapping[str, bytes] = field(default_factory=dict)
    #: path of that folder in the job, for messages
    place: str = "custom"
    #: its path on disk, once the app is deployed; without links
    folder: Path | None = None

    def __post_init__(self) -> None:
        self.modules = frozenset(path.partition("/")[0].removesuffix(".py") for path in self.files)

    def holds(self, path: str) -> bool:
        """Whether a class path leads into this code."""
        return path.partition(".")[0] in self.modules

    def owns(self, module: ModuleType) -> bool:
        """Whether a module was imported from this code, and not from another place."""
        file = getattr(module, "__file__", None)
        return self.folder is None or file is None or Path(file).resolve().is_relative_to(self.folder)

    def admit(self) -> None:
        """Put the folder at the beginning of ``sys.path``."""
        if self.files and self.folder is not None and str(self.folder) not in sys.path:
            sys.path.insert(0, str(self.folder))
            importlib.invalidate_caches()

    def shadows(self) -> list[Problem]:
        """Find modules that would hide those of Python or redflare."""
        return [
            Problem(f"{self.place}/{name}", "", "has the name of a module that others need; rename it")
            for name in sorted(self.modules & (sys.stdlib_module_names | _OWN))
        ]

    def lacks(self, path: str) -> str:
        """Why this code has nothing at a class path; "" if it has, or may have."""
        if not self.holds(path):
            return ""
        module, _, name = path.rpartition(".")
        stem = module.replace(".", "/")
        file = self._file(stem)
        if file is None:
            folder = any(each.startswith(f"{stem}/") for each in self.files)
            return f"{self.place} has no {stem}.py" + (", only a folder of that name" if folder else "")
        try:
            names = set(_names(self._parsed(file)))
        except SyntaxError as error:
            return f"{self.place}/{file}, line {error.lineno}: {error.msg}"
        except (ValueError, RecursionError, MemoryError) as error:
            return f"{self.place}/{file} cannot be read: {error}"
        if name in names or "*" in names or "__getattr__" in names:
            return ""
        return f"{self.place}/{file} has no {name!r}{did_you_mean(name, names)}"

    def definition(self, path: str) -> Definition | None:
        """Find the class or function at a class path that ``lacks`` has passed; None: the source does not tell."""
        module, _, name = path.rpartition(".")
        file = self._file(module.replace(".", "/"))
        body = self._parsed(file) if file else []
        found = [node for node in body if isinstance(node, Definition) and node.name == name]
        return found[0] if found and list(_names(body)).count(name) == 1 else None

    def _file(self, stem: str) -> str | None:
        return next((each for each in (f"{stem}.py", f"{stem}/__init__.py") if each in self.files), None)

    def _parsed(self, file: str) -> list[ast.stmt]:
        with _PARSING:
            return ast.parse(self.files[file]).body


def _names(body: list[ast.stmt]) -> Iterator[str]:
    """Names that statements at the top of a module may bind."""
    for node in body:
        # what is inside a definition binds nothing here; in anything else (an if, a try, a with) all names may be bound
        for each in [node] if isinstance(node, Definition) else ast.walk(node):
            if isinstance(each, Definition):
                yield each.name
            elif isinstance(each, ast.Name):
                yield each.id
            elif isinstance(each, ast.Import | ast.ImportFrom):
                yield from (alias.asname or alias.name.partition(".")[0] for alias in each.names)


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
