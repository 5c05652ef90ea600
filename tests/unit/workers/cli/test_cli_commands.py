"""The commands of ``redflare`` are imported when they are used, and help shows all of them."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import typer
from redflare_workers.cli.app import COMMANDS, app
from typer.testing import CliRunner

#: Runs a command and prints which of some modules it has imported.
PROGRAM = """
import contextlib, io, sys
from redflare_workers.cli.app import app
quiet = io.StringIO()
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
    app(sys.argv[1].split())
print(*[name for name in sys.argv[2:] if name in sys.modules])
"""


def imported(command: str, *modules: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, command, *modules], stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout.split()


@pytest.mark.parametrize("name", COMMANDS)
def test_the_summary_of_a_command_is_that_of_its_own_help(name: str) -> None:
    module, summary = COMMANDS[name]
    command = typer.main.get_command(import_module(module).app)
    assert summary == " ".join((command.help or "").partition("\n\n")[0].partition("; exit code")[0].split()).rstrip()


def test_help_lists_every_command_and_imports_none() -> None:
    shown = CliRunner().invoke(app, ["--help"]).stdout
    assert all(f"│ {name} " in shown for name in COMMANDS)
    modules = [module for module, _ in COMMANDS.values()]
    assert imported("--help", *modules, "redis", "numpy") == []


def test_a_command_imports_no_other_and_a_mistyped_one_imports_none() -> None:
    modules = [module for module, _ in COMMANDS.values()]
    assert imported("task --help", *modules) == ["redflare_workers.cli.task"]
    assert imported("tusk", *modules) == []


@pytest.mark.parametrize(
    "command",
    ["server --check", "site site-1 --check", "agent run t:train --site site-1 --check", "status --patience 0"],
)
def test_a_command_that_shows_texts_does_not_wait_for_numpy(command: str) -> None:
    assert imported(f"{command} --url redis://127.0.0.1:1", "numpy", "redis") == ["redis"]


@pytest.mark.parametrize("workspace", ["", "--workspace ."])
def test_doctor_imports_nothing_of_jobs(workspace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    modules = ["redflare_workers.jobs", "redflare_workers.workflow", "redflare_workers.apis", "numpy"]
    assert imported(f"doctor {workspace} --patience 0 --url redis://127.0.0.1:1", *modules) == []


def test_completion_offers_the_commands_with_their_summaries() -> None:
    environment = {"_REDFLARE_COMPLETE": "complete_bash", "COMP_WORDS": "redflare st", "COMP_CWORD": "1"}
    assert CliRunner().invoke(app, env=environment, prog_name="redflare").stdout.split() == ["status"]
