"""The processes that ``redflare demo --kill-agents`` and ``--kill-server`` kill, and when."""

from __future__ import annotations

import threading
from collections.abc import Sequence


class KillPlan:
    """Kills one agent in every round, in turn; its successor is not killed in the same round."""

    def __init__(self, sites: Sequence[str]) -> None:
        self._sites = sites
        self._struck: set[int] = set()  #: rounds that had their kill
        self._lock = threading.Lock()

    def strikes(self, site: str, round_number: int) -> bool:
        """Whether this agent, half-way through this round, is to be killed; True at most once per round."""
        with self._lock:
            if round_number in self._struck or self._sites[(round_number - 1) % len(self._sites)] != site:
                return False
            self._struck.add(round_number)
            return True

    @property
    def kills(self) -> int:
        """Number of kills so far."""
        with self._lock:
            return len(self._struck)


class ServerKillPlan:
    """Kills the server once in every fifth round, from the second on."""

    def __init__(self) -> None:
        self._struck: set[int] = set()
        self._lock = threading.Lock()

    def strikes(self, round_number: int) -> bool:
        """Whether the server is to be killed now, in the middle of this round; True at most once per round."""
        with self._lock:
            if round_number % 5 != 2 or round_number in self._struck:
                return False
            self._struck.add(round_number)
            return True

    @property
    def kills(self) -> int:
        """Number of kills so far."""
        with self._lock:
            return len(self._struck)
