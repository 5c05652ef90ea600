"""The rows of the page about NVFlare."""

from __future__ import annotations

import re

from tests.support.paths import DOCS


def differences() -> list[str]:
    """Return the first cells of the rows in "What differs on purpose" of ``docs/from-nvflare.md``."""
    page = (DOCS / "from-nvflare.md").read_text()
    tables = re.findall(r"^##+ What differs on purpose\n\n((?:\|.*\n)+)", page, re.M)
    return [line.split(" | ")[0].removeprefix("| ") for table in tables for line in table.splitlines()[2:]]
