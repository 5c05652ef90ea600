"""``documented``: ties a test to the sentence of NVFlare's documentation that it shows.

The documents are those of ``IPCAgent``, of its definitions (``defs``), of ``ClientEngine`` and of ``WFCommSpec``; a
member is named "IPCAgent.get_task". A test is named after what the sentence says. Where it deliberately does not hold,
the test shows what happens instead, and names its row in the tables of ``docs/from-nvflare.md`` by the first cell.
"""

from __future__ import annotations

from typing import Final

import pytest

DOCUMENTS: Final = ("IPCAgent", "defs", "ClientEngine", "WFCommSpec")

#: Members that have a sentence, and the rows that sentences name; of all modules that are imported.
MEMBERS: Final[set[str]] = set()
ROWS: Final[set[str]] = set()


def documented(*members: str, differs: str = "") -> pytest.MarkDecorator:
    """Mark a test, or a parameter of one, as one sentence about ``members``; the report lists it under the first.

    Args:
        differs: the first cell of the row that says how redflare differs; "": the sentence holds.
    """
    assert members
    assert {name.partition(".")[0] for name in members} <= set(DOCUMENTS), members
    MEMBERS.update(members)
    if differs:
        ROWS.add(differs)
    return pytest.mark.documented(*members, differs=differs)


def sentence(test: str) -> str:
    """Return what the name of a test says: "test_a_second_start_warns" is "a second start warns"."""
    name, _, case = test.removeprefix("test_").partition("[")
    return name.replace("_", " ") + (f": {case[:-1]}" if case else "")
