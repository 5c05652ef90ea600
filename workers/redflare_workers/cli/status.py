"""``redflare status``."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Annotated, Final

import typer
from redflare_broker import wording
from redflare_broker.changes import ChangeFeed
from redflare_broker.errors import Unavailable
from redflare_broker.inspection import FederationStatus, LinkStatus
from rich.console import Group
from rich.live import Live
from rich.text import Text

from . import showing
from .connecting import NOT_FOUND, Target, connected

#: Seconds between two looks when nothing is heard, and at least between two when much is.
_AT_LEAST_EVERY: Final = 2.0
_AT_MOST_EVERY: Final = 0.25


@connected
def status(
    target: Target,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Stay and draw again when something changes, at least every 2 s.")
    ] = False,
    as_json: showing.Json = False,
) -> None:
    """Every agent: connected or not, its open task and what that waits for, queues, payload.

    An agent, and the CJ that hands it tasks, is one of these; the time behind
    it is the age of its last sign of life:
    [green]● connected[/green]
    [yellow]◐ silent[/yellow]     more than three heartbeats are missing
    [red]○ gone[/red]       its heartbeat has expired
    [dim]○ left[/dim]       it said bye
    [dim]· never[/dim]      nobody has been there

    T/R/D counts the entries in the streams: tasks, results, dead letters.

    [bold]Examples[/bold]
    redflare status
    redflare status --watch --url redis+cluster://node-1:6379,node-2:6379
    redflare status --json | jq '.links[] | select(.task) | .waiting'
    """
    if watch:
        _watch(target, as_json)
        return
    found = target.inspector.status()
    if as_json:
        showing.print_json(found.to_json())
    else:
        showing.console().print(_picture(found))
    if not found.links:
        raise typer.Exit(NOT_FOUND)


def _watch(target: Target, as_json: bool) -> None:
    looks = _looks(target)
    if as_json:
        for found in looks:
            document = {"unavailable": str(found)} if isinstance(found, Unavailable) else found.to_json()
            showing.print_json(document, lines=True)
    console = showing.console()
    with Live(console=console, auto_refresh=False, screen=console.is_terminal) as live:
        for found in looks:
            picture = (
                Text(f"no answer, trying again: {found}", style="red") if isinstance(found, Unavailable) else found
            )
            live.update(picture if isinstance(picture, Text) else _picture(picture), refresh=True)


def _looks(target: Target) -> Iterator[FederationStatus | Unavailable]:
    """Look at once, and again whenever something has changed, for ever."""
    keys = target.inspector.keys
    feed, is_open = ChangeFeed(target.server, keys.agents, [f"{target.namespace}:"]), False
    try:
        while True:
            try:
                if not is_open:
                    feed.open()
                    is_open = True
                yield target.inspector.status()
                _pause(feed)
            except Unavailable as error:
                is_open = False
                yield error
                time.sleep(_AT_MOST_EVERY)
    finally:
        with contextlib.suppress(Unavailable):
            feed.close()


def _pause(feed: ChangeFeed) -> None:
    """Until something changes, or it is time anyway; many changes at once are one."""
    started = time.monotonic()
    heard = feed.wait(_AT_LEAST_EVERY)
    while heard and (left := started + _AT_MOST_EVERY - time.monotonic()) > 0:
        heard = feed.wait(left)


def _picture(found: FederationStatus) -> Group:
    where = f"{found.url}, namespace {found.namespace}"
    if not found.links:
        return Group(Text(f"no agent and no CJ has been seen at {where}"))
    table = showing.table("Agent", "CJ", "Open task", "T/R/D", "Payload")
    for link in found.links:
        table.add_row(*_row(link))
    agents = sum(link.agent.connected for link in found.links)
    tasks = sum(link.task is not None for link in found.links)
    chunks = f"{found.blob_chunks} chunk{'' if found.blob_chunks == 1 else 's'}"
    total = f"{wording.size(found.blob_bytes)} of payload in {chunks}" if found.blob_chunks else "no payload in chunks"
    summary = f"{agents} of {len(found.links)} agents connected · {tasks} open tasks · {total}"
    return Group(table, Text(f"\n{summary}\n{where}", style="dim"))


def _row(link: LinkStatus) -> tuple[Text, Text, Text, Text, Text]:
    agent = Text.assemble((link.fqcn, "bold"), "\n", showing.side(link.agent))
    open_task = Text("-", style="dim")
    if link.task:
        name = Text.assemble(link.task.name, " ", (link.task.task_id, "dim"))
        open_task = Text.assemble(name, "\n", showing.status(link.waiting))
    queues = Text.assemble(f"{link.tasks}/{link.results}/", (str(link.dead), "red" if link.dead else ""))
    payload = Text(wording.size(link.blob_bytes) if link.blob_bytes else "-")
    return agent, showing.side(link.cj), open_task, queues, payload
