"""The demo on the screen: a live table on a terminal, plain lines anywhere else, and the report at the end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich import box
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from .data import Samples
from .events import ComparisonBegan, Event, JobProcessEnded, RoundEnded, SiteActivity, SiteAnswered, SiteChanged
from .outcome import Curve, DemoOutcome

BARS = "▁▂▃▄▅▆▇█"
STYLES = {
    SiteActivity.STARTING: "yellow",
    SiteActivity.WAITING: "dim",
    SiteActivity.TRAINING: "cyan",
    SiteActivity.KILLED: "bold white on red",
    SiteActivity.DIED: "bold red",
    SiteActivity.DONE: "green",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table."""

    images: int = 0
    digits: str = ""
    pid: int = 0
    round_number: int = 0
    state: SiteActivity = SiteActivity.STARTING
    loss: float | None = None
    accuracy: float | None = None
    seconds: float | None = None
    kills: int = 0


class Display:
    """Shows events; a context manager, because a live table holds the terminal.

    With ``kills``, agents will be killed and have a column for that.
    """

    def __init__(self, console: Console, rounds: int, *, kills: bool) -> None:
        self._console = console
        self._rounds = rounds
        self._kills = kills
        self._rows: dict[str, Row] = {}
        self._federated = Row()
        self._note = "starting the agents"
        self._began = time.monotonic()
        self._live = Live(console=console, get_renderable=self._table, refresh_per_second=12, transient=False)

    def __enter__(self) -> Display:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._live.stop()

    def sites(self, sites: dict[str, Samples]) -> None:
        """Add rows for the sites; call it before the first event."""
        top = max(max(samples.counts()) for samples in sites.values())
        for site, samples in sites.items():
            self._rows[site] = Row(images=len(samples), digits=sparkline(samples.counts(), top))

    def show(self, event: Event) -> None:
        """Show an event."""
        match event:
            case SiteChanged():
                self._site_changed(event)
            case SiteAnswered(site=site):
                self._rows[site] = replace(
                    self._rows[site],
                    state=SiteActivity.DONE,
                    round_number=event.round_number,
                    loss=event.loss,
                    accuracy=event.accuracy,
                    seconds=event.seconds,
                )
            case RoundEnded():
                self._round_ended(event)
            case JobProcessEnded():
                how = "killed (SIGKILL) in the middle of a round" if event.killed else "ended by itself"
                self._note = f"{event.name}, pid {event.pid}: {how}; starting another"
                self._line(f"round {event.round_number + 1:>3}  {event.name}: {event.pid} {how}; starting another")
            case ComparisonBegan(name=name):
                self._note = f"for comparison: {name}"
                self._line(f"for comparison, training {name}")

    def _site_changed(self, event: SiteChanged) -> None:
        row = self._rows[event.site]
        if event.state is SiteActivity.TRAINING:
            self._note = "training"
        killed = event.state is SiteActivity.KILLED
        # keep showing "killed" until the successor is ready
        succeeds = row.state is SiteActivity.KILLED and event.state is SiteActivity.STARTING
        self._rows[event.site] = replace(
            row,
            state=row.state if succeeds else event.state,
            pid=event.pid,
            round_number=max(row.round_number, event.round_number),
            kills=row.kills + killed,
        )
        if killed or event.state is SiteActivity.DIED:
            how = "killed (SIGKILL) half-way through its training" if killed else "ended by itself"
            self._line(f"round {event.round_number:>3}  {event.site}: agent {event.pid} {how}; starting another")

    def _round_ended(self, event: RoundEnded) -> None:
        self._federated = Row(
            round_number=event.round_number, loss=event.loss, accuracy=event.accuracy, seconds=event.seconds
        )
        sites = "  ".join(f"{site} {row.accuracy or 0:.1%}" for site, row in self._rows.items())
        self._line(
            f"round {event.round_number:>3}/{self._rounds}  federated {event.accuracy:.1%}  loss {event.loss:.3f}  "
            f"{event.seconds:.2f} s  ({sites})"
        )

    def _line(self, text: str) -> None:
        if not self._console.is_terminal:
            self._console.print(escape(text), highlight=False, soft_wrap=True)

    def _table(self) -> Table:
        elapsed = time.monotonic() - self._began
        table = Table(
            title=f"redflare demo: round {self._federated.round_number} of {self._rounds}, {elapsed:.1f} s",
            caption=self._note,
            title_justify="left",
            caption_justify="left",
            box=box.SIMPLE_HEAD,
            padding=0,  # so that all columns fit a terminal of 80
        )
        table.add_column("site")
        table.add_column("images", justify="right")
        table.add_column("digits 0-9")
        table.add_column("pid", justify="right")
        table.add_column("round", justify="right")
        table.add_column("state", width=8)
        for column in ("loss", "accuracy", "time", *(["killed"] if self._kills else [])):
            table.add_column(column, justify="right")
        for site, row in list(self._rows.items()):
            style = STYLES[row.state]
            identity = (site, str(row.images), row.digits, str(row.pid or ""), str(row.round_number or ""))
            table.add_row(*identity, f"[{style}]{row.state}[/]", *self._figures(row), str(row.kills or ""))
        table.add_section()
        row = self._federated
        table.add_row("federated", "", "", "", str(row.round_number or ""), "", *self._figures(row), style="bold")
        return table

    @staticmethod
    def _figures(row: Row) -> tuple[str, str, str]:
        """Loss, accuracy and time, empty as long as they are unknown."""
        return (
            "" if row.loss is None else f"{row.loss:.3f}",
            "" if row.accuracy is None else f"{row.accuracy:.1%}",
            "" if row.seconds is None else f"{row.seconds:.2f} s",
        )


def report(outcome: DemoOutcome, console: Console) -> None:
    """Print the report at the end: the comparison as a table, and the model's hash."""
    table = Table(
        title=f"Accuracy on {outcome.held_out} held-out images",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("trained on")
    table.add_column("images", justify="right")
    table.add_column("digits 0-9")
    table.add_column("steps", justify="right")
    table.add_column("accuracy", justify="right")
    top = max(max(curve.digits) for curve in outcome.alone)
    for curve in outcome.alone:
        table.add_row(*_cells(curve, str(outcome.steps), top))
    table.add_section()
    everywhere = f"{len(outcome.alone)} x {outcome.steps}"
    table.add_row(*_cells(outcome.federated, everywhere, max(outcome.federated.digits)), style="bold green")
    table.add_row(*_cells(outcome.pooled, str(outcome.steps), max(outcome.pooled.digits)))
    console.print(table)
    lines = [
        f"model   sha256 {outcome.sha256}",
        f"plot    {outcome.plot}",
        f"time    {outcome.seconds:.1f} s, {outcome.rounds} rounds, seed {outcome.seed}",
    ]
    if outcome.kills:
        lines.append(f"killed  {outcome.kills} agents with SIGKILL, one half-way through every round")
    if outcome.server_kills:
        lines.append(f"killed  the server with SIGKILL, {outcome.server_kills} times in the middle of a round")
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def sparkline(counts: Sequence[int], top: int) -> str:
    """Draw one character per count; ``top`` is a full bar, and 0 a dot, so that skew is seen at a glance."""
    return "".join("·" if count == 0 else BARS[min(len(BARS) - 1, count * len(BARS) // (top + 1))] for count in counts)


def _cells(curve: Curve, steps: str, top: int) -> tuple[str, ...]:
    return curve.name, str(curve.images), sparkline(curve.digits, top), steps, f"{curve.final:.1%}"
