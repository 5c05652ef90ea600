"""Whether a job may continue with the clients that are left."""

from __future__ import annotations

from typing import Any

import pytest
from redflare_workers.communicator.dead_clients import violation

ABC = ["a", "b", "c"]

CASES: list[tuple[str, list[str], set[str], dict[str, Any], int, str]] = [
    ("no client is dead", ABC, set(), {"min_clients": 5, "mandatory_clients": ["z"]}, 9, ""),
    ("no client has joined", [], set(), {"min_clients": 2}, 0, ""),
    ("those who are dead are none of the job's", ABC, {"z"}, {"min_clients": 3}, 3, ""),
    ("all are dead", ABC, {"a", "b", "c"}, {}, 3, "no client is alive"),
    ("all are dead before enough had joined", ["a"], {"a"}, {"min_clients": 3}, 1, "no client is alive"),
    ("one is alive and one is enough by default", ABC, {"a", "b"}, {}, 3, ""),
    ("just enough are alive", ABC, {"a"}, {"min_clients": 2}, 3, ""),
    ("fewer than enough are alive", ABC, {"a", "b"}, {"min_clients": 2}, 3, "only 1 clients are alive, 2 are needed"),
    ("fewer than enough are alive, but there never were enough", ABC, {"a"}, {"min_clients": 4}, 3, ""),
    ("there were enough once, and some have left", ABC, {"a"}, {"min_clients": 4}, 4, "only 2 clients are alive"),
    (
        "a mandatory client is dead",
        ABC,
        {"b"},
        {"mandatory_clients": ["b"]},
        3,
        "mandatory clients are disconnected: b",
    ),
    ("a client that is not mandatory is dead", ABC, {"a"}, {"mandatory_clients": ["b", "c"]}, 3, ""),
    ("a mandatory client has not joined yet", ABC, {"a"}, {"mandatory_clients": ["z"]}, 3, ""),
    ("the meta says nothing", ABC, {"a"}, {"min_clients": None, "mandatory_clients": None}, 3, ""),
]


@pytest.mark.parametrize(
    ("joined", "disconnected", "meta", "most", "why"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_the_policy(joined: list[str], disconnected: set[str], meta: dict[str, Any], most: int, why: str) -> None:
    found = violation(joined, disconnected, meta, most)
    assert found.startswith(why)
    assert bool(found) == bool(why)
