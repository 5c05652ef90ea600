"""The processes that ``redflare demo --kill-agents`` and ``--kill-server`` kill, and when."""

from __future__ import annotations

import threading
from collections.abc import Sequence


class _OncePerRound:
    """Counts kills from several threads; there is at most one in a round."""

    def __init__(self) -> None:
        self._struck: set[int] = set()  #: rounds that had their kill
        self._lock = threading.Lock()

    @property
    def kills(self) -> int:
        """Number of kills so far."""
        with self._lock:
            return len(self._struck)

    def _strike(self, round_number: int) -> bool:
        with self._lock:
            if round_number in self._struck:
                return False
            self._struck.add(round_number)
            return True


class KillPlan(_OncePerRound):
    """Kills one agent in every round, in turn; its successor is not killed in the same round."""

    def __init__(self, sites: Sequence[str]) -> None:
        super().__init__()
        self._sites = sites

    def strikes(self, site: str, round_number: int) -> bool:
        """Whether this agent, half-way through this round, is to be killed; True at most once per round."""
        return self._sites[(round_number - 1) % len(self._sites)] == site and self._strike(round_number)


class ServerKillPlan(_OncePerRound):
    """Kills the server once in every fifth round, from the second on."""

    def strikes(self, round_number: int) -> bool:
        """Whether the server is to be killed now, in the middle of this round; True at most once per round."""
        return round_number % 5 == 2 and self._strike(round_number)
