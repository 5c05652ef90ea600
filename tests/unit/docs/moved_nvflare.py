"""Imports classes of the installed NVFlare with their imports changed as ``docs/from-nvflare.md`` says.

``moved("app_common.workflows.fedavg")`` is NVFlare's module of that name, in which the page's table was applied to each
import. What it imports of ``app_common``, ``app_opt`` and ``widgets.widget`` is moved the same way; all else of NVFlare
stays as it is installed.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from tests.support.paths import DOCS

#: The page's table of modules: NVFlare's name, ours.
ROWS: Final[list[tuple[str, str]]] = re.findall(
    r"^\| `(nvflare[^`]*)`[^|]* \| `(redflare[^`]*)` \|$", (DOCS / "from-nvflare.md").read_text(), re.M
)
#: What else of NVFlare is moved when a module imports it, because its classes are built on those of ``apis``.
_MOVED_TOO: Final = r"^(\s*(?:from|import) )nvflare\.((?:app_common|app_opt|widgets\.widget)(?=[. ]))"


def with_imports_changed(source: str, rows: Sequence[tuple[str, str]] = ROWS) -> str:
    """Apply the page's table to the imports of a module, row by row."""
    for theirs, ours in rows:
        source = re.sub(rf"^(\s*(?:from|import) ){re.escape(theirs)}(?=[. ])", rf"\1{ours}", source, flags=re.M)
    return source


class _MovedFinder(MetaPathFinder, Loader):
    """Finds the modules of one package in the installed NVFlare.

    Args:
        package: the name under which they are imported.
        rows: which imports are changed to what.
    """

    def __init__(self, package: str, rows: Sequence[tuple[str, str]]) -> None:
        installed = importlib.util.find_spec("nvflare")
        assert installed is not None
        assert installed.origin is not None
        self._root = Path(installed.origin).parent
        self._package = package
        self._rows = rows

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, *names = fullname.split(".")
        if package != self._package:
            return None
        place = self._root.joinpath(*names)
        if place.is_dir():
            return ModuleSpec(fullname, self, origin=str(place / "__init__.py"), is_package=True)
        file = place.with_suffix(".py")
        return ModuleSpec(fullname, self, origin=str(file)) if file.is_file() else None

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        assert module.__spec__.origin is not None
        origin = Path(module.__spec__.origin)
        # NVFlare's outermost package imports more than is wanted here
        empty = module.__name__ == self._package or not origin.exists()
        source = with_imports_changed("" if empty else origin.read_text(), self._rows)
        source = re.sub(_MOVED_TOO, rf"\1{self._package}.\2", source, flags=re.M)
        exec(compile(source, str(origin), "exec"), vars(module))


sys.meta_path.insert(0, _MovedFinder("moved_nvflare", ROWS))


def moved(name: str) -> Any:
    """Import a module of NVFlare, named without its first part, with its imports changed."""
    return importlib.import_module(f"moved_nvflare.{name}")
