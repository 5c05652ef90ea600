"""Rules for all test code: it declares what it imports, it does not sleep, its ids are the same in every process."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Final

import pytest

from tests.support.paths import ROOT

TESTS: Final = ROOT / "tests"
#: The only files that sleep, and why.
MAY_SLEEP: Final = {
    "benchmarks/harness.py": "`idle`: what a link does while nothing is asked of it is measured",
    "chaos/random_pause.py": "faults hit at random moments",
    "inside_nvflare/scripts/ipc_agent.py": "written for NVFlare, whose tasks can only be polled",
    "inside_nvflare/scripts/timed.py": "an idle minute inside NVFlare is measured",
}


def files() -> list[Path]:
    return sorted(TESTS.rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """Top-level names of the modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def declared() -> set[str]:
    """Names of the distributions that ``pip install .[dev]`` is asked for, in lower case."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted, seen = [*project["dependencies"], "redflare[dev]"], set()
    while wanted:
        name, brackets = re.match(r"([\w.-]+)(?:\[([\w,]+)\])?", wanted.pop()).groups()  # type: ignore[union-attr]
        if name == "redflare":
            wanted += [each for extra in brackets.split(",") for each in extras[extra]]
        seen.add(name.lower().replace("_", "-"))
    return seen


def test_everything_that_tests_import_is_declared() -> None:
    own = {"tests", "redflare_agent", "redflare_broker", "redflare_workers"}
    own |= {script.stem for script in (TESTS / "inside_nvflare" / "scripts").glob("*.py")}
    providers, known = packages_distributions(), declared()
    missing = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files()
        for name in set(imported(path)) - own - sys.stdlib_module_names
        if not {each.lower().replace("_", "-") for each in providers.get(name, [])} & known
    }
    assert missing == set()


def test_only_fault_injectors_and_idle_measurements_sleep() -> None:
    sleeping = re.compile(r"time\.sleep|from time import .*\bsleep\b")
    found = {str(path.relative_to(TESTS)) for path in files() if sleeping.search(path.read_text())}
    assert found == set(MAY_SLEEP)


def test_ids_of_tests_hold_no_addresses(request: pytest.FixtureRequest) -> None:
    """Workers of pytest-xdist must collect the same ids."""
    assert [item.nodeid for item in request.session.items if re.search(r"0x[0-9a-f]{6}", item.nodeid)] == []
