"""The server of the demo's job as a watched process."""

from __future__ import annotations

from typing import Any

from .errors import DemoError
from .events import Failed, RoundEnded, SiteAnswered, Trained
from .watched_process import WatchedProcess


class DemoServerProcess(WatchedProcess):
    """The server, which reports each result and each round."""

    def _on_status(self, status: dict[str, Any]) -> None:
        figures = {name: status[name] for name in ("loss", "accuracy", "seconds") if name in status}
        match status["state"]:
            case "answered":
                self._emit(SiteAnswered(site=status["site"], round_number=status["round"], **figures))
            case "round":
                self._emit(RoundEnded(round_number=status["round"], **figures))
            case "done":
                self._emit(Trained())
            case "failed":
                self._emit(Failed(error=DemoError(f"the federation failed: {status['reason']}")))
