"""Files, folders and names that the pages about the code mention exist.

Source is read, not imported: a name is a class, function, constant or module of one of the packages.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from tests.support.paths import DOCS, ROOT

PAGES: Final = [
    DOCS / "internals.md",
    DOCS / "glossary.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((DOCS / "decisions").glob("*.md")),
]
PACKAGES: Final = [
    ROOT / "broker" / "redflare_broker",
    ROOT / "workers" / "redflare_workers",
    ROOT / "agent" / "redflare_agent",
]
#: Where a path on a page may begin.
ROOTS: Final = [ROOT, DOCS, DOCS / "decisions", *(package.parent for package in PACKAGES), *PACKAGES]
#: A file of source or text, or a folder whose name ends with a slash or begins with that of a package.
PATH: Final = re.compile(
    r"(?<![\w/.-])((?:[\w.-]+/)*[\w-]+\.(?:py|lua|md|toml)|(?:[\w-]+/)+(?![\w.])|redflare_\w+(?:/\w+)*)(?!\w)"
)
#: Two capitals and a small letter, as in ``CJLink``, ``CJLink.exchange`` and ``cj_link.CJLink``, or an attribute of
#: what begins with a capital, as in ``Outgoing.make``.
NAME: Final = re.compile(
    r"\b(?:[a-z_]+\.)?(?=\w*[A-Z]\w*[A-Z])(?=\w*[a-z])[A-Z]\w*(?:\.\w+)?\b|\b(?=\w*[a-z])[A-Z]\w*\.[a-z_]\w*\b"
)
#: The name of a thread; the variable part is ``<id>`` on a page and ``{self.id}`` in the source.
THREAD: Final = re.compile(r"redflare-[a-z]+(?:-[a-z]+)*(?:-<\w+>)?(?=`)")
#: Names of the field and of other projects.
OTHERS: Final = {"NVFlare", "PyTorch", "GitHub", "RedisJSON", "McGill", "OpenSSL"}


def mentioned(page: Path) -> str:
    """Return the parts of a page that are set as code."""
    text = page.read_text()
    blocks = re.findall(r"^```text\n(.*?)^```", text, re.M | re.S)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    return "\n".join([*blocks, *inline])


@cache
def defined() -> dict[str, set[str]]:
    """Return the attributes of each class, and the functions and constants of each module, by name."""
    found: dict[str, set[str]] = defaultdict(set)
    bases: dict[str, set[str]] = defaultdict(set)
    for folder in PACKAGES:
        for file in folder.rglob("*.py"):
            tree = ast.parse(file.read_text())
            found[file.stem] |= names_in(tree)
            for node in ast.walk(tree):
                if isinstance(node, ast.ClassDef):
                    found[node.name] |= names_in(node)
                    bases[node.name] |= {base.id for base in node.bases if isinstance(base, ast.Name)}
    for name in list(found):
        for base in ancestors(name, bases):
            found[name] |= found.get(base, set())
    return found


def names_in(scope: ast.Module | ast.ClassDef) -> set[str]:
    """Return the names that a module or a class defines; for a class also those that its methods assign to ``self``."""
    names: set[str] = set()
    for node in ast.walk(scope) if isinstance(scope, ast.ClassDef) else scope.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                names |= {target.id} if isinstance(target, ast.Name) else set()
                names |= {target.attr} if isinstance(target, ast.Attribute) else set()
    return names


def ancestors(name: str, bases: dict[str, set[str]]) -> Iterator[str]:
    for base in bases.get(name, ()):
        if base != name:
            yield base
            yield from ancestors(base, bases)


def is_known(name: str) -> bool:
    owner, _, attribute = name.partition(".")
    known = defined()
    if attribute:
        return attribute in known.get(owner, ())
    return name in known or any(name in names for names in known.values())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_and_folder_that_a_page_names_exists(page: Path) -> None:
    paths = {path for path in PATH.findall(mentioned(page)) if "*" not in path}
    assert [path for path in sorted(paths) if not any((root / path).exists() for root in ROOTS)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_name_that_a_page_mentions_is_defined(page: Path) -> None:
    names = set(NAME.findall(mentioned(page))) - OTHERS
    names = {name for name in names if not re.fullmatch(r"[A-Z]+s|\w+\.(?:py|lua|md|json|toml|sh)", name)}
    assert [name for name in sorted(names) if not is_known(name)] == []


def test_every_thread_that_the_page_about_the_inside_names_is_started() -> None:
    source = "\n".join(file.read_text() for package in PACKAGES for file in package.rglob("*.py"))
    started = {re.sub(r"\{[^}]*\}", "<>", name) for name in re.findall(r'"(redflare-[^"\s]+)"', source)}
    named = {re.sub(r"<\w+>", "<>", name) for name in THREAD.findall((DOCS / "internals.md").read_text())}
    assert {"redflare-subscriber-<>", "redflare-lifeline"} <= named
    assert named - started == set()


def test_every_folder_is_on_the_page_about_the_inside() -> None:
    rows = set(re.findall(r"^\| `(redflare_[\w/]+)` \|", (DOCS / "internals.md").read_text(), re.M))
    folders = {
        f"{package.name}/{init.parent.relative_to(package).parts[0]}"
        for package in PACKAGES
        for init in package.rglob("__init__.py")
        if init.parent != package
    }
    assert rows == folders | {"redflare_agent"}
