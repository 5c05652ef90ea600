"""A simulation in the terminal: its progress while it runs, and its result as tables and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console, Group
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from redflare_workers.simulator.progress import Progress as Snapshot
from redflare_workers.simulator.progress import rounds_of
from redflare_workers.workflow import Controller, CrossSiteEval, Cyclic, FedAvg, FedBuff

from . import display

if TYPE_CHECKING:
    from redflare_workers.simulator import SimulationOutcome

#: A matrix of more sites is too wide for a terminal: its means are shown.
_WIDEST: Final = 6
#: Longest table; of a longer one the first and the last rows are shown.
_LONGEST: Final = 20


class SimulationDisplay:
    """Shows progress on standard error: one live line on a terminal, one line per round anywhere else.

    A context manager, because a live line occupies the terminal.
    """

    def __init__(self, sites: int, *, quiet: bool, console: Console | None = None) -> None:
        self._console = console or display.console(stderr=True)
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

    def __exit__(self, *exc_info: object) -> None:
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


def report(outcome: SimulationOutcome[Controller], console: Console) -> None:
    """Print status, rounds and results."""
    style = "green" if outcome.ok else "red"
    rounds, planned = rounds_of(outcome.controller)
    facts = display.facts()
    facts.add_row("status", Text(outcome.status, style=style))
    if outcome.reason:
        facts.add_row("reason", Text(outcome.reason))
    many = f"in {outcome.processes} processes" if outcome.processes > 1 else "in one process"
    where = many if outcome.processes else "in threads of this process"
    facts.add_row("sites", f"{outcome.sites}, {where}")
    if planned:
        facts.add_row("rounds", f"{rounds} of {planned}")
    facts.add_row("results", f"{outcome.results}, {outcome.results / max(outcome.seconds, 1e-9):.0f} per second")
    facts.add_row("time", f"{outcome.seconds:.1f} s")
    store = getattr(outcome.controller, "store", None)
    if store is not None and outcome.ok:
        facts.add_row("model", str(store.folder / store.NEWEST))
    table = _table(outcome.controller)
    console.print(Group(table, Text(), facts) if table is not None and table.row_count else facts)


def to_json(outcome: SimulationOutcome[Controller]) -> dict[str, Any]:
    """Return the same as JSON, with the controller's history."""
    controller = outcome.controller
    rounds, planned = rounds_of(controller)
    numbers: dict[str, Any] = {
        "status": outcome.status,
        "reason": outcome.reason,
        "controller": type(controller).__name__,
        "sites": outcome.sites,
        "processes": outcome.processes,
        "rounds": {"done": rounds, "planned": planned},
        "results": outcome.results,
        "seconds": round(outcome.seconds, 3),
    }
    for name in ("history", "contributions"):
        if isinstance(kept := getattr(controller, name, None), list | dict):
            numbers[name] = kept
    if isinstance(controller, CrossSiteEval):
        numbers["matrix"] = controller.results
    return numbers


def _table(controller: Controller) -> Table | None:
    if isinstance(controller, FedAvg):
        which = "received" if controller.evaluate is None else "new"
        heads = ["round", "sites", f"{controller.metric or 'metric'} of the {which} model"]
        if all(done["metric"] is None for done in controller.history):
            heads.pop()
        rows = [
            (str(number), str(len(done["clients"])), _figure(done["metric"]))[: len(heads)]
            for number, done in enumerate(controller.history, start=1)
        ]
        return _filled(display.table(*heads), rows)
    if isinstance(controller, Cyclic):
        table = display.table("round", "order in which sites trained")
        return _filled(table, [(str(n), ", ".join(names)) for n, names in enumerate(controller.history, start=1)])
    if isinstance(controller, FedBuff):
        table = display.table("site", "accepted results")
        return _filled(table, [(site, str(count)) for site, count in sorted(controller.contributions.items())])
    return _matrix(controller) if isinstance(controller, CrossSiteEval) else None


def _matrix(controller: CrossSiteEval) -> Table:
    """One row for each model; one column for each site, or mean, lowest and highest of all sites."""
    sites = sorted(controller.results)
    owners = sorted({owner for measured in controller.results.values() for owner in measured})
    wide = len(sites) <= _WIDEST
    table = display.table("model of", *(sites if wide else ["mean of the sites", "lowest", "highest"]))
    rows = []
    for owner in owners:
        figures = [_first(controller.results[site].get(owner)) for site in sites]
        known = [figure for figure in figures if figure is not None]
        if wide:
            rows.append((owner, *map(_figure, figures)))
        else:
            rows.append((owner, *map(_figure, (sum(known) / len(known), min(known), max(known)))))
    return _filled(table, rows)


def _first(metrics: dict[str, float] | None) -> float | None:
    return next(iter(metrics.values())) if metrics else None


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _filled(table: Table, rows: Sequence[tuple[str, ...]]) -> Table:
    left_out = len(rows) - _LONGEST
    half = _LONGEST // 2
    for number, row in enumerate(rows):
        if left_out > 0 and number == half:
            table.add_row(*("..." for _ in row))
        if left_out <= 0 or number < half or number >= len(rows) - half:
            table.add_row(*row)
    return table
