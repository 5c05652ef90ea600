"""One site's agent as a watched process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .data import Samples
from .events import Emit, SiteActivity, SiteChanged
from .kill_plan import KillPlan
from .processes import WatchedProcess
from .site_settings import DemoSiteSettings

LOG_FILE = "agent.log"


class AgentProcess(WatchedProcess):
    """One site's agent.

    Args:
        settings: of the site.
        samples: the site's data.
        emit: called with every event, from this agent's watching thread.
        plan: asked half-way through each round whether the agent is to be killed; None: it is not.
        on_halfway: called with the round before the agent goes on to the second half.
    """

    def __init__(
        self,
        settings: DemoSiteSettings,
        samples: Samples,
        emit: Emit,
        plan: KillPlan | None = None,
        on_halfway: Callable[[int], object] | None = None,
    ) -> None:
        self.site = settings.site
        command = settings.prepare(samples)
        super().__init__(f"the agent of {self.site}", command, settings.workspace / LOG_FILE, emit)
        self._plan = plan
        self._on_halfway = on_halfway

    def _began(self, pid: int) -> None:
        self._changed(pid, SiteActivity.STARTING, 0)

    def _heard(self, pid: int, told: dict[str, Any]) -> None:
        match told["state"]:
            case "ready":
                self._changed(pid, SiteActivity.WAITING, self._round)
            case "training":
                self._changed(pid, SiteActivity.TRAINING, self._round)
            case "halfway" if self._plan and self._plan.strikes(self.site, self._round):
                self.kill()
            case "halfway":
                if self._on_halfway:
                    self._on_halfway(self._round)
                self._give_leave()

    def _ended(self, pid: int, *, killed: bool) -> None:
        self._changed(pid, SiteActivity.KILLED if killed else SiteActivity.DIED, self._round)

    def _changed(self, pid: int, state: SiteActivity, round_number: int) -> None:
        self._emit(SiteChanged(site=self.site, state=state, round_number=round_number, pid=pid))
