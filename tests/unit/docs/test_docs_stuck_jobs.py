"""What the page on stuck jobs quotes of the program is what the program says."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.paths import DOCS, ROOT

PAGE: Final = (DOCS / "stuck-jobs.md").read_text()
#: The modules that write what the tables quote.
WRITERS: Final = [
    ROOT / "workers" / "redflare_workers" / "server" / "parent" / "job_scheduler.py",
    ROOT / "workers" / "redflare_workers" / "cli" / "job_display.py",
    ROOT / "broker" / "redflare_broker" / "inspection" / "explain_wait.py",
    ROOT / "broker" / "redflare_broker" / "inspection" / "presence.py",
    ROOT / "broker" / "redflare_broker" / "inspection" / "task_view.py",
    ROOT / "broker" / "redflare_broker" / "scripts" / "task_states.py",
]
#: Names and values in quotes: what a program puts into its sentences.
VALUE: Final = re.compile(r"(?:site|job)-\d+|'train'|trainer|num_of_gpus|\d+(?:\.\d+)?(?: (?:s|min|h|d|MB)\b)?")


def quotes() -> list[str]:
    """Return the first cells of the tables whose heads say that somebody says so."""
    tables = re.findall(r"^\| [^|\n]* says? \|.*\n\|[-|]+\n((?:\|.*\n)+)", PAGE, re.M)
    cells = [row.split("|")[1].strip() for table in tables for row in table.splitlines()]
    return [quote for cell in cells if not cell.startswith("`") for quote in cell.split(", or ")]


def sentences(file: Path) -> Iterator[list[str]]:
    """Yield the fixed parts of all texts in a module."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.JoinedStr):
            yield [part.value for part in node.values if isinstance(part, ast.Constant) and isinstance(part.value, str)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield [node.value]


@pytest.mark.parametrize("quote", quotes())
def test_the_program_says_what_the_page_quotes(quote: str) -> None:
    said = [parts for file in WRITERS for parts in sentences(file) if any(part.strip() for part in parts)]
    rest = VALUE.sub("...", quote)
    for parts in sorted(said, key=lambda parts: -sum(map(len, parts))):
        if match := re.search(".*?".join(rf"(?<!\w)({re.escape(part.strip())})(?!\w)" for part in parts), rest):
            for start, end in reversed([match.span(group) for group in range(1, len(parts) + 1)]):
                rest = f"{rest[:start]} {rest[end:]}"
    assert re.findall(r"\w+", rest) == []


def test_there_are_quotes() -> None:
    assert len(quotes()) > 8
