"""``redflare status``."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Annotated, Final

import typer
from redflare_broker.errors import Unavailable
from redflare_broker.inspection.federation import FederationStatus, LinkStatus
from redflare_broker.inspection.job_view import JobView
from redflare_broker.runtime.keyspace_feed import KeyspaceFeed
from redflare_broker.util import humanize
from rich.console import Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
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
    """Every job and agent: who is connected, the open tasks and what they wait for, queues, payload.

    An agent, and the CJ that hands it tasks, is one of these; the time behind
    it is the age of its last sign of life:
    [green]● connected[/green]
    [yellow]◐ silent[/yellow]     more than three heartbeats are missing
    [red]○ gone[/red]       its heartbeat has expired
    [dim]○ left[/dim]       it said bye
    [dim]· never[/dim]      nobody has been there

    T/R/D counts the entries in the streams: tasks, results, dead letters.

    Jobs, if there are any, come first, with what each of their tasks waits
    for; `redflare job show` tells more of one.

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
    if not found.links and not found.jobs:
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
    feed, is_open = KeyspaceFeed(target.server, keys.agents, [f"{target.namespace}:"]), False
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


def _pause(feed: KeyspaceFeed) -> None:
    """Until something changes, or it is time anyway; many changes at once are one."""
    started = time.monotonic()
    heard = feed.wait(_AT_LEAST_EVERY)
    while heard and (left := started + _AT_MOST_EVERY - time.monotonic()) > 0:
        heard = feed.wait(left)


def _picture(found: FederationStatus) -> Group:
    where = f"{found.url}, namespace {found.namespace}"
    if not found.links and not found.jobs:
        return Group(Text(f"no agent, no CJ and no job has been seen at {where}"))
    parts: list[RenderableType] = [*_jobs(found.jobs)]
    payload = f"{humanize.size(found.blob_bytes)} of payload in chunks"
    if found.links:
        parts += [_sides(found.links), Text(), _tasks(found.links), Text()]
        agents = sum(link.agent.connected for link in found.links)
        payload = f"{agents} of {len(found.links)} agents connected, {payload}"
    return Group(*parts, Text(f"{payload}\n{where}", style="dim"))


def _jobs(jobs: Sequence[JobView]) -> Iterator[RenderableType]:
    """A line for each server and its sites; for each job, and under it one for each task that stands."""
    for job in jobs:
        if "." not in job.fqcn:
            yield _server(job)
            continue
        head = showing.job_line(job)
        yield head
        for task in job.tasks if job.runs else ():
            yield Padding(
                Text.assemble(task.name, " ", (task.root_id, "dim"), f"  {humanize.age(task.age)}"), (0, 0, 0, 2)
            )
            yield Padding(Text(task.waiting), (0, 0, 0, 4))
        yield Text()


def _server(server: JobView) -> Group:
    """A server, which has a roll of its sites, as a job has."""
    lines = [Text.assemble("server ", (server.fqcn, "bold"), "  ", showing.side(server.server))]
    lines += [Text.assemble("  site ", site.name, "  ", showing.side(site.attendance)) for site in server.sites]
    return Group(*lines, Text())


def _sides(links: Sequence[LinkStatus]) -> Table:
    table = showing.table("Agent", "", "CJ", "T/R/D", "Payload")
    for link in links:
        queues = Text.assemble(f"{link.tasks}/{link.results}/", (str(link.dead), "red" if link.dead else ""))
        payload = humanize.size(link.blob_bytes) if link.blob_bytes else "-"
        table.add_row(Text(link.fqcn), showing.side(link.agent), showing.side(link.cj), queues, payload)
    return table


def _tasks(links: Sequence[LinkStatus]) -> Group:
    """Two lines for each open task: what it is, and what it waits for."""
    lines: list[RenderableType] = [Text("Open tasks", style="bold")]
    for link in links:
        if task := link.task:
            lines.append(Text.assemble(link.fqcn, "  ", task.name, " ", (task.task_id, "dim")))
            lines.append(Padding(showing.status(link.waiting), (0, 0, 0, 2)))
    return Group(*lines) if len(lines) > 1 else Group(Text("no open task", style="dim"))
