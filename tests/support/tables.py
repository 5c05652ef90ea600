"""Tables of the project's pages, by their first cells."""

from __future__ import annotations

import re

from tests.support.paths import DOCS


def differences() -> list[str]:
    """Return the first cells of the rows in "What differs on purpose" of ``docs/from-nvflare.md``."""
    tables = re.findall(r"^##+ What differs on purpose\n\n((?:\|.*\n)+)", (DOCS / "from-nvflare.md").read_text(), re.M)
    return [cell for table in tables for cell in _first_cells(table)]


def protocol_rows(first_column: str) -> list[str]:
    """Return the first cells of the rows of a table of ``docs/protocol.md``, named by the heading of its column."""
    tables = re.findall(rf"^(\| {first_column} \|.*\n(?:\|.*\n)+)", (DOCS / "protocol.md").read_text(), re.M)
    return [cell for table in tables for cell in _first_cells(table)]


def _first_cells(table: str) -> list[str]:
    return [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines()[2:]]
