"""``redflare tail``."""

from __future__ import annotations

from typing import Annotated, Final

import typer
from redflare_broker.inspection.tail import Tail
from redflare_broker.inspection.tail_event import Kind, TailEvent
from rich.text import Text

from . import showing
from .connecting import Target, connected

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


@connected
def tail(
    target: Target,
    fqcn: Annotated[str, typer.Argument(help="The agent's FQCN, as `redflare status` shows it.", show_default=False)],
    as_json: showing.Json = False,
) -> None:
    """Follow one agent live: its tasks and results, their states, aborts, notices, who comes and goes.

    It starts with what stands there and goes on until Ctrl-C, also over
    restarts of the server. Nothing is polled and nothing is changed. With
    --json each event is one line.

    [bold]Examples[/bold]
    redflare tail site-1--trainer
    redflare tail site-1.job-7.trainer --json | jq -r .text
    """
    target.inspector.now(fqcn)  # a server that is away at the start is an error, later it is waited for
    console = showing.console()
    with Tail(target.server, fqcn, target.namespace) as events:
        for event in events:
            if as_json:
                showing.print_json(event.to_json(), lines=True)
            else:
                console.print(_line(event), soft_wrap=True)


def _line(event: TailEvent) -> Text:
    time = showing.clock(event.time_ms) if event.time_ms else " " * 12
    said = showing.status(event.text) if event.kind == "ledger" else Text(event.text)
    task = (f"{event.task_id} ", "dim") if event.task_id else ("", "")
    return Text.assemble((time, "dim"), "  ", (f"{event.kind:<6}", _STYLES[event.kind]), "  ", task, said)
