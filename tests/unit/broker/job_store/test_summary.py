"""A reason on one line."""

from __future__ import annotations

import pytest
from redflare_broker.job_store.record import summary


@pytest.mark.parametrize(
    ("reason", "line"),
    [
        ("", ""),
        ("killed", "killed"),
        (
            "it is rejected:\n  a.json: x is wrong\n  b.json: y is",
            "it is rejected: a.json: x is wrong; b.json: y is",
        ),
        (
            "site-1: rejected:\n  a.json: x; site-2: rejected:\n  b.json: y",
            "site-1: rejected: a.json: x; site-2: rejected: b.json: y",
        ),
        ("one mistake\nanother", "one mistake; another"),
        ("ValueError: a\n\n   b ", "ValueError: a; b"),
        ("it died (exit code 1)\nthe end of its log:\nTraceback\n  boom", "it died (exit code 1)"),
        ("the job's server failed:\nthe end of its log:\nTraceback", "the job's server failed:"),
    ],
)
def test_all_lines_are_kept_but_those_of_a_log(reason: str, line: str) -> None:
    assert summary(reason) == line
