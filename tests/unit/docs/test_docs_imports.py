"""The line "May import" in each folder's docstring lists all that the folder imports, and nothing that is forbidden."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.paths import DOCS, ROOT

PACKAGES: Final = {
    "redflare_broker": ROOT / "broker" / "redflare_broker",
    "redflare_agent": ROOT / "agent" / "redflare_agent",
    "redflare_workers": ROOT / "workers" / "redflare_workers",
}
#: Every folder with modules, by its dotted name.
FOLDERS: Final = {
    ".".join((package, *init.parent.relative_to(root).parts)): init.parent
    for package, root in PACKAGES.items()
    for init in sorted(root.rglob("__init__.py"))
}
#: What a line says of all that is below.
EVERYTHING: Final = "everything"
NOTHING: Final = "nothing"


def listed(folder: str) -> set[str]:
    """Return the dotted names that a folder's docstring lists; "everything" is one of them where it is said."""
    text = ast.get_docstring(ast.parse((FOLDERS[folder] / "__init__.py").read_text())) or ""
    lines = re.findall(r"^May import:((?:.|\n)*?)[;.](?=\s|$)", text, re.M)
    assert len(lines) == 1, f"{folder} says {len(lines)} times what it may import"
    return {dotted(item, folder) for item in re.split(r",|\band\b", lines[0]) if item.strip()} - {NOTHING}


def dotted(item: str, folder: str) -> str:
    """Return the module or folder that an item of a line means."""
    name, package = " ".join(item.replace("``", "").split()), folder.partition(".")[0]
    if name in (EVERYTHING, NOTHING):
        return name
    if name.startswith("the broker"):
        return "redflare_broker" + name.removeprefix("the broker").replace("'s ", ".")
    return {"the agent": "redflare_agent", "the root": f"{package}.<root>"}.get(name, f"{package}.{name}")


def imported(folder: str) -> set[str]:
    """Return the dotted names of the folders and modules of this project that the modules of a folder import."""
    found = {module for file in FOLDERS[folder].glob("*.py") for module in imports(ast.parse(file.read_text()), folder)}
    return {name for name in map(placed, found) if name != folder and not name.startswith(f"{folder}.<root>")}


def imports(tree: ast.AST, folder: str) -> Iterator[str]:
    """Yield the modules that are imported while a program runs; for type checkers alone is something else."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] in PACKAGES)
        elif isinstance(node, ast.ImportFrom):
            above = folder.rsplit(".", node.level - 1)[0] if node.level else ""
            module = ".".join(filter(None, (above, node.module)))
            if module.partition(".")[0] in PACKAGES:
                yield from (f"{module}.{alias.name}" for alias in node.names)
        else:
            yield from imports(node, folder)


def placed(module: str) -> str:
    """Return the folder of a module; a module of a package's root is one of ``<package>.<root>``."""
    folder = module
    while folder not in FOLDERS:
        folder = folder.rpartition(".")[0]
    return f"{folder}.<root>.{module.removeprefix(folder).strip('.')}" if folder in PACKAGES else folder


def covers(name: str, imported_name: str) -> bool:
    package, _, module = imported_name.partition(".<root>.")
    plain = f"{package}.{module.partition('.')[0]}" if module else imported_name
    return name == EVERYTHING or any(f"{one}.".startswith(f"{name}.") for one in (imported_name, plain))


def forbidden(name: str, folder: str) -> bool:
    """Whether the contracts do not let a folder import what its docstring lists."""
    package, _, path = folder.partition(".")
    if name == EVERYTHING or name.endswith(".<root>") or not name.startswith(package) or not path:
        return False
    part, other = path.partition(".")[0], name.split(".")[1]
    if other == part:
        # the parts of server and client may import what they share, and nothing else of each other
        return "." in path and not name.endswith(".shared")
    return all(other not in row for row in rows_below(package, part))


def rows_below(package: str, part: str) -> list[list[str]]:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(each["layers"] for each in contracts if each.get("containers") == [package])
    rows = [re.split(r"\s*[|:]\s*", row) for row in layers]
    return rows[next(number for number, row in enumerate(rows) if part in row) + 1 :]


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_docstring_lists_all_that_its_folder_imports(folder: str) -> None:
    lines = listed(folder)
    assert {name for name in imported(folder) if not any(covers(one, name) for one in lines)} == set()


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_docstring_lists_nothing_that_the_contracts_forbid(folder: str) -> None:
    assert {name for name in listed(folder) if forbidden(name, folder)} == set()


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_docstring_lists_only_what_there_is(folder: str) -> None:
    names = {name for name in listed(folder) if name != EVERYTHING and not name.endswith("<root>")}
    assert {name for name in names if name not in FOLDERS and not module_file(name).exists()} == set()


def module_file(name: str) -> Path:
    package, _, module = name.partition(".")
    return PACKAGES[package] / f"{module}.py"


def test_a_folder_imports_only_from_rows_above_it_on_the_page_about_the_inside() -> None:
    rows = re.findall(r"^\| `(redflare_[\w/]+)` \|", (DOCS / "internals.md").read_text(), re.M)
    order = [row.replace("/", ".") for row in rows]
    below = {
        (folder, name)
        for folder in FOLDERS
        for name in imported(folder)
        if (row := ".".join(folder.split(".")[:2])) in order
        and (other := ".".join(name.split(".")[:2])) in order
        and order.index(other) > order.index(row)
    }
    assert below == set()
