"""Lines of a process's log."""

from __future__ import annotations

import logging

from redflare_workers.util.log_format import VisibleFormatter, level_and_text


def test_a_line_of_a_log_is_taken_apart_again() -> None:
    record = logging.LogRecord("redflare.a.b", logging.WARNING, __file__, 1, "round %d: ended", (3,), None)
    assert level_and_text(VisibleFormatter().format(record)) == ("WARNING", "round 3: ended")
    assert level_and_text("INFO a: printed") == ("", "INFO a: printed")


def test_a_message_obeys_nothing_and_cannot_pretend_to_be_another_line() -> None:
    message = "site says \x1b[2J\n2026-01-01 00:00:00,000 INFO a: all is well"
    record = logging.LogRecord("redflare", logging.WARNING, __file__, 1, "%s", (message,), None)
    first, second = VisibleFormatter().format(record).split("\n")
    assert first.endswith("WARNING redflare: site says \\x1b[2J")
    assert second == "  2026-01-01 00:00:00,000 INFO a: all is well"
