"""Lines of a process's log."""

from __future__ import annotations

import logging

from redflare_workers.util.log_format import VisibleFormatter


def test_a_message_obeys_nothing_and_cannot_pretend_to_be_another_line() -> None:
    message = "site says \x1b[2J\n2026-01-01 00:00:00,000 INFO a: all is well"
    record = logging.LogRecord("redflare", logging.WARNING, __file__, 1, "%s", (message,), None)
    first, second = VisibleFormatter().format(record).split("\n")
    assert first.endswith("WARNING redflare: site says \\x1b[2J")
    assert second == "  2026-01-01 00:00:00,000 INFO a: all is well"
