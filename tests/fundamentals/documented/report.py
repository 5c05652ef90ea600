"""The report of the documented sentences: how many of each document hold, and which differ on purpose.

``pytest tests/fundamentals`` ends with it; with ``-v`` it lists the sentences that differ, each with its row in
``docs/from-nvflare.md``, and with ``-vv`` all of them.
"""

from __future__ import annotations

from typing import Final

import pytest

from tests.fundamentals.documented.sentences import DOCUMENTS, sentence

#: In ``TestReport.user_properties``, which reach the main process of pytest-xdist.
_PROPERTY: Final = "documented"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have the report of each documented test name its member and its row."""
    for item in items:
        for mark in item.iter_markers("documented"):
            item.user_properties.append((_PROPERTY, (mark.args[0], mark.kwargs["differs"])))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Write the table."""
    lines: dict[str, list[tuple[str, str, str, str]]] = {name: [] for name in DOCUMENTS}
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.stats.get(outcome, []):
            # a file that cannot be imported has a report without them
            properties = getattr(report, "user_properties", ())
            for member, row in (value for name, value in properties if name == _PROPERTY):
                how = "fails" if outcome != "passed" else "differs" if row else "holds"
                text = sentence(report.nodeid.rpartition("::")[2])
                lines[member.partition(".")[0]].append((member, how, text, row))
    if not any(lines.values()):
        return
    write, verbosity = terminalreporter.write_line, terminalreporter.config.get_verbosity()
    terminalreporter.section("sentences of NVFlare's documentation")
    write(f"{'':12}{'sentences':>12}{'hold':>8}{'differ':>8}{'fail':>8}")
    for name, found in lines.items():
        count = [sum(line[1] == how for line in found) for how in ("holds", "differs", "fails")]
        write(f"{name:12}{len(found):>12}" + "".join(f"{number:>8}" for number in count))
    for member, how, text, row in sorted(line for found in lines.values() for line in found):
        if how == "fails" or verbosity > 1 or (verbosity > 0 and row):
            write(f"{how:8} {member}: {text}" + (f"  -> {row}" if row else ""))
