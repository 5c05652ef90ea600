"""One site's agent as a watched process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .events import Emit, SiteActivity, SiteChanged
from .kill_plan import KillPlan
from .watched_process import WatchedProcess


class AgentProcess(WatchedProcess):
    """One site's agent.

    Args:
        site: its name.
        command: starts the agent.
        log: the file that its output goes to.
        emit: called with every event, from the watching threads.
        plan: asked half-way through each round whether the agent is to be killed; None: it is not.
        on_halfway: called with the round before the agent goes on to the second half.
    """

    def __init__(
        self,
        site: str,
        command: Sequence[str],
        log: Path,
        emit: Emit,
        plan: KillPlan | None = None,
        on_halfway: Callable[[int], object] = lambda round_number: None,
    ) -> None:
        super().__init__(f"the agent of {site}", command, log, emit)
        self.site = site
        self._plan = plan
        self._on_halfway = on_halfway

    def _on_start(self) -> None:
        self._changed(SiteActivity.STARTING, 0)

    def _on_status(self, status: dict[str, Any]) -> None:
        match status["state"]:
            case "ready":
                self._changed(SiteActivity.WAITING, self._round)
            case "training":
                self._changed(SiteActivity.TRAINING, self._round)
            case "halfway" if self._plan and self._plan.strikes(self.site, self._round):
                self.kill()
            case "halfway":
                self._on_halfway(self._round)
                self.give_leave()

    def _on_end(self) -> None:
        self._changed(SiteActivity.KILLED if self._killed else SiteActivity.DIED, self._round)

    def _changed(self, state: SiteActivity, round_number: int) -> None:
        self._emit(SiteChanged(site=self.site, state=state, round_number=round_number, pid=self._pid))
