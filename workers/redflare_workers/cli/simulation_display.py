"""The progress of a simulation: one live line on a terminal, one line per round anywhere else."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from redflare_workers.simulator.progress import Progress as Snapshot


class SimulationDisplay:
    """Shows progress on standard error; a context manager, because a live line occupies the terminal.

    Args:
        sites: how many are expected.
        quiet: show nothing.
    """

    def __init__(self, sites: int, *, quiet: bool, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._live = self._console.is_terminal and not quiet
        self._quiet = quiet
        self._sites = sites
        self._rounds_shown = 0
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[results]}"),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task("starting sites", total=None, results="")

    def __enter__(self) -> SimulationDisplay:
        if self._live:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._bar.stop()

    def show(self, now: Snapshot) -> None:
        """Show the progress so far."""
        if self._live:
            self._bar.update(self._task, **self._fields(now))
        elif not self._quiet and now.rounds_done > self._rounds_shown:
            self._rounds_shown = now.rounds_done
            self._console.print(
                f"round {now.rounds_done} of {now.rounds}: {now.results} results, {now.seconds:.1f} s", soft_wrap=True
            )

    def refresh(self) -> None:
        """Redraw the live line."""
        self._bar.refresh()

    def _fields(self, now: Snapshot) -> dict[str, Any]:
        if now.joined < self._sites and not now.rounds_done:
            description = f"{now.joined} of {self._sites} sites have joined"
        elif now.rounds:
            description = f"round {min(now.rounds_done + 1, now.rounds)} of {now.rounds}"
        else:
            description = f"{now.joined} sites"
        part = min(now.results_in_round / self._sites, 1.0)
        return {
            "description": description,
            "results": f"{now.results} results",
            "total": now.rounds or None,
            "completed": min(now.rounds_done + part, now.rounds),
        }
