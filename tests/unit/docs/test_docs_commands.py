"""Commands that the pages show exist, with their options; so do the make targets and the extras to install."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import typer
from redflare_broker.util.extras import how_to_install
from redflare_workers.cli.app import app

from tests.support.paths import DOCS, ROOT

PAGES: Final = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]


def lines_of_code(page: Path) -> Iterator[str]:
    """Each line of the page's blocks, and each piece of code in its text."""
    text = page.read_text()
    for block in re.findall(r"^```.*?\n(.*?)^```", text, re.M | re.S):
        yield from block.splitlines()
    yield from re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))


def commands() -> Iterator[str]:
    """Find the redflare commands on the pages, without comments, pipes and further commands."""
    for page in PAGES:
        for line in lines_of_code(page):
            shown = re.split(r"\s[|&<>]|\s{2,}| # |\$\(|;", line.removeprefix("$ "))[0].strip()
            if re.match(r"redflare [a-z-]+\b(?!:)", shown):
                yield shown.removesuffix("...").strip()


@pytest.mark.parametrize("line", sorted(set(commands())))
def test_the_commands_on_the_pages_exist_with_their_options(line: str) -> None:
    _, *words = shlex.split(line)
    command: Any = typer.main.get_command(app)
    path = ["redflare"]
    while words and hasattr(command, "get_command") and (found := command.get_command(None, words[0])):
        command = found
        path.append(words.pop(0))
    if words:
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        known |= {"--install-completion", "--help"}
        assert {word for word in words if word.startswith("-")} <= known, f"{line}: {' '.join(path)} has {known}"
        assert not hasattr(command, "get_command") or words[0].startswith("-"), f"{line}: there is no such command"


def test_every_make_target_on_the_pages_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = {match[1] for page in PAGES for line in lines_of_code(page) if (match := re.match(r"make ([a-z-]+)", line))}
    assert named
    assert named <= targets


#: Everything that people read and that may tell them how to install redflare.
TEXTS: Final = [
    *PAGES,
    ROOT / "Dockerfile",
    ROOT / "docker-compose.yml",
    ROOT / "Makefile",
    ROOT / "pyproject.toml",
    *(path for folder in ("broker", "agent", "workers", "examples") for path in (ROOT / folder).rglob("*.py")),
]
INSTALL: Final = re.compile(r"pip3? install ([^`\n]*)")


def test_every_extra_to_install_exists() -> None:
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    text = "\n".join(path.read_text() for path in TEXTS)
    named = {
        extra for group in re.findall(r"'(?:\.|[^' ]*\.whl|/src)\[([\w,]+)\]'", text) for extra in group.split(",")
    }
    asked = set(re.findall(r"how_to_install\('(\w+)'\)", text))
    assert named >= {"cli", "embedded", "testing"}
    assert asked >= {"cli", "demo", "embedded"}
    assert named | asked <= extras


def test_nobody_is_told_to_install_redflare_from_a_package_index() -> None:
    told = [
        f"{path.relative_to(ROOT)}: pip install {arguments}"
        for path in TEXTS
        for arguments in INSTALL.findall(path.read_text())
        if any(
            re.fullmatch(r"redflare(\[[\w,]*\])?([=<>~!]=?.*)?", word) for word in re.split(r"[\s'\"();:]+", arguments)
        )
    ]
    assert told == []


def test_the_errors_of_missing_extras_say_what_works() -> None:
    assert how_to_install("cli") == (
        "pip install '.[cli]' in the checkout, or pip install './WHEEL[cli]' with the name of the wheel"
    )
