"""README, docs and examples use the public modules, and no module inside them."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.paths import ROOT

PUBLIC: Final = (
    "redflare_agent",
    "redflare_agent.flare",
    "redflare_broker.config",
    "redflare_broker.embedded",
    "redflare_broker.testing",
    "redflare_workers",
    "redflare_workers.jobs",
    "redflare_workers.nvflare",
    "redflare_workers.workflow",
)
#: Names that a page gives for something else than an import, by the page's path.
NO_IMPORTS: Final = {
    # modules under NVFlare's names, for code whose package alone is renamed
    "docs/from-nvflare.md": r"redflare_workers\.(apis(\.\w+)?|workflow\.controller|communicator\.wf_comm_server)",
    # the argument of a command
    "docs/simulate.md": r"redflare_workers\.demo\.digits",
    # loggers
    "docs/trainers.md": r"redflare_agent\.ipc_agent|redflare_broker\.link\.endpoint",
}
#: About the code itself.
INSIDE: Final = ("docs/internals.md", "docs/protocol.md", "docs/glossary.md")

DOTTED: Final = re.compile(r"\bredflare_(?:agent|broker|workers)(?:\.[A-Za-z_]\w*)*")
PYTHON: Final = re.compile(r"^([ \t]*)```python\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
PAGES: Final = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [
        ROOT / "README.md",
        *(ROOT / "docs").glob("*.md"),
        *(path for path in (ROOT / "examples").rglob("*") if path.suffix in {".py", ".json", ".md", ".yaml", ".toml"}),
    ]
)


def is_public(name: str) -> bool:
    """Whether this is a public module, or what one exports, or an attribute of that."""
    module, names = name, list[str]()
    while module and module not in PUBLIC:
        module, _, last = module.rpartition(".")
        names.insert(0, last)
    found: object = importlib.import_module(module) if module else None
    for each in names:
        found = getattr(found, each, None)
        if found is None or inspect.ismodule(found):
            return False
    return found is not None


def imports(page: str) -> Iterator[str]:
    """What the Python code of a page imports of redflare, as dotted names."""
    text = (ROOT / page).read_text()
    blocks = [text] if page.endswith(".py") else [textwrap.dedent(block) for _, block in PYTHON.findall(text)]
    for block in blocks:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_there_are_pages_with_imports() -> None:
    assert {name.partition(".")[0] for page in PAGES for name in imports(page)} >= {
        "redflare_agent",
        "redflare_workers",
    }


@pytest.mark.parametrize(
    ("name", "public"),
    [
        ("redflare_workers.IPCExchanger", True),
        ("redflare_workers.workflow.FedAvg", True),
        ("redflare_workers.FLContextKey.ROOT", False),
        ("redflare_workers.FLContextKey.TASK_NAME", True),
        ("redflare_workers.ipc", False),
        ("redflare_workers.ipc.exchanger.IPCExchanger", False),
        ("redflare_broker", False),
        ("redflare_broker.embedded.EmbeddedServer", True),
    ],
)
def test_public_is_a_module_of_the_list_and_what_it_exports(name: str, public: bool) -> None:
    importlib.import_module("redflare_workers.ipc.exchanger")
    assert is_public(name) is public


@pytest.mark.parametrize("page", PAGES)
def test_a_page_imports_only_what_is_public(page: str) -> None:
    of_redflare = [name for name in imports(page) if name.startswith("redflare_")]
    assert [name for name in of_redflare if not is_public(name)] == []


@pytest.mark.parametrize("page", sorted(set(PAGES) - set(INSIDE)))
def test_a_page_names_only_what_is_public(page: str) -> None:
    names = set(DOTTED.findall(Path(ROOT, page).read_text()))
    exempt = NO_IMPORTS.get(page, "")
    assert sorted(name for name in names if not is_public(name) and not re.fullmatch(exempt, name)) == []
