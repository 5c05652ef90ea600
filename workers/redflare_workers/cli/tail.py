"""``redflare tail``."""

from __future__ import annotations

from typing import Annotated, Final

import typer
from redflare_broker.fqcn import FQCN
from redflare_broker.inspection.tail import Tail
from redflare_broker.inspection.tail_event import Kind, TailEvent
from redflare_broker.util import humanize
from rich.text import Text

from . import display
from .connection import Target, connected
from .exit_codes import EXIT_CODES, NOT_FOUND, fail

_STYLES: Final[dict[Kind, str]] = {
    "task": "yellow",
    "result": "blue",
    "ledger": "bold",
    "agent": "green",
    "cj": "green",
    "abort": "magenta",
    "notice": "dim",
    "server": "red",
}


app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command(epilog=EXIT_CODES)
@connected
def tail(
    target: Target,
    fqcn: Annotated[str, typer.Argument(help="Full name (FQCN) of the agent: site-1--trainer.", show_default=False)],
    as_json: display.Json = False,
) -> None:
    """Follow one agent live: its tasks and results, their states, aborts, verdicts, who connects and leaves.

    Starts with the present state and continues until Ctrl-C, also across
    restarts of Redis. Changes nothing, and does not poll. With --json each
    event is one line.

    [bold]Examples[/bold]
    redflare tail site-1--trainer
    redflare tail site-1.job-7.trainer --json | jq -r .text
    """
    FQCN.check(fqcn)
    # fails if Redis is away at the start; later the tail waits for it
    if fqcn not in (known := target.inspector.links()):
        there = f"there is {humanize.first(known, 5)}" if known else "none has connected yet"
        fail(f"no agent {fqcn!r} in namespace {target.namespace!r}: {there}; `redflare status` shows all", NOT_FOUND)
    with Tail(target.server, fqcn, target.namespace) as events:
        for event in events:
            display.output(event.to_json(), _line(event), as_json=as_json, lines=True)


def _line(event: TailEvent) -> Text:
    time = display.clock(event.time_ms) if event.time_ms else " " * 12
    text = display.status(event.text) if event.kind == "ledger" else Text(event.text)
    task = (f"{event.task_id} ", "dim") if event.task_id else ("", "")
    return Text.assemble((time, "dim"), "  ", (f"{event.kind:<6}", _STYLES[event.kind]), "  ", task, text)
