"""The examples of the page on simulations are run as they are."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path

import pytest
from redflare_workers.cli import simulate as command
from redflare_workers.simulator import SimulationOutcome, simulate

from tests.support.process.marked import marked
from tests.unit.docs.test_docs_examples import DOCS, blocks

PAGE = DOCS / "simulate.md"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write the two programs of the page to a folder."""
    for name, text in zip(("trainer.py", "program.py"), blocks(PAGE, "python"), strict=True):
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_program_prints_the_output_that_the_page_shows(folder: Path) -> None:
    with marked([sys.executable, "-W", "error", "program.py"], folder) as program:
        assert program.finish() == (0, blocks(PAGE, "text")[0], "")


def test_the_command_prints_the_output_that_the_page_shows_but_for_the_times(folder: Path) -> None:
    shown = re.search(r"^\$ (redflare .*)\n((?:.|\n)*?)^```", PAGE.read_text(), re.MULTILINE)
    assert shown is not None
    with marked(
        [Path(sys.executable).parent / "redflare", *shown[1].split()[1:], "--processes", "2"], folder
    ) as program:
        code, output, errors = program.finish()
    assert code == 0, errors
    assert timeless(errors + output) == timeless(shown[2])


def timeless(text: str) -> list[str]:
    lines = [re.sub(r"[0-9.]+ s\b|[0-9]+ per second", "_", line.rstrip()) for line in text.splitlines()]
    return [line for line in lines if line]


def test_every_option_is_in_the_table() -> None:
    text = PAGE.read_text()
    options = [name.replace("as_", "") for name in inspect.signature(command.simulate).parameters if name != "train"]
    assert [name for name in options if f"| `--{name}" not in text] == []


def test_every_argument_and_every_field_is_named() -> None:
    text = PAGE.read_text()
    names = [*inspect.signature(simulate).parameters, *SimulationOutcome.__dataclass_fields__, "ok"]
    assert [name for name in names if f"`{name}" not in text and name != "controller"] == []
