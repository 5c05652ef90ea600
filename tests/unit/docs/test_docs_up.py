"""The page about ``redflare up`` shows what it prints, and names its options with their defaults."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer
from redflare_workers.cli.up import app
from redflare_workers.cli.up_display import next_steps
from redflare_workers.up import DEFAULT_FOLDER
from redflare_workers.up.plan import UpOptions, make_plan

from tests.unit.docs.test_docs_examples import DOCS, blocks

PAGE = DOCS / "up.md"


def test_what_it_prints_is_on_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = make_plan(UpOptions(folder=Path(DEFAULT_FOLDER), sites=2, agent="trainer:train"))
    shown = "".join(f"{line}\n" for line in next_steps(plan)).replace(str(tmp_path), "/home/ann/operate")
    assert f"redflare: {shown}" in blocks(PAGE, "text")


def test_all_options_are_on_the_page() -> None:
    command = typer.main.get_command(app)
    options = {max(parameter.opts, key=len) for parameter in command.params} - {"--help"}
    assert set(re.findall(r"^\| `(--[a-z]+)[ `]", PAGE.read_text(), re.M)) == options


def test_the_folder_on_the_page_is_the_one_that_is_made(tmp_path: Path) -> None:
    plan = make_plan(UpOptions(folder=tmp_path / DEFAULT_FOLDER, sites=1))
    (tree,) = [block for block in blocks(PAGE, "text") if block.startswith(f"{DEFAULT_FOLDER}/")]
    listed = set(re.findall(r"^ {4}([\w.-]+)", tree, re.M))
    plan.folder.make()
    plan.folder.prepare(plan.workspaces)
    made = {path.name for path in plan.folder.path.iterdir()} - {".gitignore"}
    assert listed == made | {"redis", "lock", "running.json"}
