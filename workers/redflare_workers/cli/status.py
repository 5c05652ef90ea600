"""``redflare status``."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Final

import typer
from redflare_broker.errors import Unavailable
from redflare_broker.inspection.federation import FederationStatus, LinkStatus
from redflare_broker.inspection.job_view import JobView
from redflare_broker.inspection.presence import Presence
from redflare_broker.inspection.refusals import describe_room
from redflare_broker.runtime.keyspace_feed import KeyspaceFeed
from redflare_broker.runtime.primary_watch import PrimaryWatch
from redflare_broker.util import humanize
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from . import display
from .connection import Target, connected
from .exit_codes import EXIT_CODES, NOT_FOUND
from .job_display import job_line
from .job_lookup import servers_in
from .listed_jobs import JobList, ListedJob, read_jobs

#: Longest and shortest pause between two readings, in seconds.
_LONGEST_PAUSE: Final = 2.0
_SHORTEST_PAUSE: Final = 0.25


app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reading:
    """What was found in Redis: the links and the servers, and the jobs beside their records."""

    found: FederationStatus
    jobs: JobList

    @property
    def servers(self) -> list[JobView]:
        return [view for view in self.found.jobs if "." not in view.fqcn]

    @property
    def open_jobs(self) -> list[ListedJob]:
        return [job for job in self.jobs.jobs if job.is_open]

    @property
    def is_empty(self) -> bool:
        return not self.found.links and not self.found.jobs and not self.jobs.jobs

    def to_json(self) -> dict[str, object]:
        servers, jobs = [each.to_json() for each in self.servers], [each.to_json() for each in self.jobs.jobs]
        return {**self.found.to_json(), "servers": servers, "jobs": jobs}


def _read(target: Target) -> _Reading:
    found = target.inspector.status()
    return _Reading(found=found, jobs=read_jobs(target, servers_in(target), found.jobs))


@app.command(epilog=EXIT_CODES)
@connected
def status(
    target: Target,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Redraw after every change, at least every 2 s.")
    ] = False,
    as_json: display.Json = False,
) -> None:
    """Show all jobs and agents: who is connected, the open tasks and what they wait for, queues, payload.

    For an agent, and for the client job (CJ) that assigns tasks to it, the
    state is shown with the age of the last heartbeat:
    [green]● connected[/green]
    [yellow]◐ silent[/yellow]     its last three heartbeats are missing
    [red]○ gone[/red]       its heartbeat has expired
    [dim]○ left[/dim]       it said bye
    [dim]· never[/dim]      none has connected yet

    T/R/D is the length of the streams: tasks, results, dead letters.

    A Redis that refuses to write now (memory or disk full) is shown before
    all else, and so are payloads that do not fit into it, with who waits. The
    jobs that are not over come next, each with what it waits for, or what each
    of its open tasks waits for; then all that are missing, but for who left
    when its job was over. Jobs that are over are counted in one line, and not
    those that were deleted. `redflare job show` shows more of a job.

    [bold]Examples[/bold]
    redflare status
    redflare status --watch --url redis+cluster://node-1:6379,node-2:6379
    redflare status --json | jq '.links[] | select(.task) | .waiting'
    """
    if watch:
        with PrimaryWatch(target.server):
            _watch(target, as_json)
        return
    found = _read(target)
    display.output(found.to_json(), _show(found), as_json=as_json)
    if found.is_empty:
        raise typer.Exit(NOT_FOUND)


def _watch(target: Target, as_json: bool) -> None:
    readings = _readings(target)
    if as_json:
        for found in readings:
            document = {"unavailable": str(found)} if isinstance(found, Unavailable) else found.to_json()
            display.print_json(document, lines=True)
    console = display.console()
    with Live(console=console, auto_refresh=False, screen=console.is_terminal) as live:
        for found in readings:
            if isinstance(found, Unavailable):
                live.update(Text(f"Redis does not answer, trying again: {found}", style="red"), refresh=True)
            else:
                live.update(_show(found), refresh=True)


def _readings(target: Target) -> Iterator[_Reading | Unavailable]:
    """Read the status now, and again after every change, without end."""
    keys = target.inspector.keys
    # a failure is shown at once, and tried again for as long as it takes
    target.server.retries = None
    feed = KeyspaceFeed(target.server, keys.agents, [f"{target.namespace}:"])
    while True:
        try:
            with feed:
                while True:
                    yield _read(target)
                    _wait_for_change(feed)
        except Unavailable as error:
            yield error
            time.sleep(_SHORTEST_PAUSE)


def _wait_for_change(feed: KeyspaceFeed) -> None:
    """Wait for a change, or for the longest pause; changes within the shortest pause count as one."""
    started = time.monotonic()
    changed = feed.wait(_LONGEST_PAUSE)
    while changed and (left := started + _SHORTEST_PAUSE - time.monotonic()) > 0:
        changed = feed.wait(left)


def _show(reading: _Reading) -> Group:
    found = reading.found
    where = f"{found.url}, namespace {found.namespace}"
    refusals = [Text(f"{refusal} Everything waits for it.", style="red") for refusal in found.refusals]
    if no_room := describe_room(found.no_room):
        refusals.append(Text(no_room, style="red"))
    if reading.is_empty:
        return Group(*refusals, Text(f"no agents, CJs or jobs found at {where}"))
    parts: list[RenderableType] = [
        *refusals,
        *_open_jobs(reading),
        *_missing(reading),
        *map(_server, reading.servers),
    ]
    payload = f"{humanize.size(found.blob_bytes)} of payload in chunks"
    if found.links:
        links = sorted(found.links, key=lambda link: link.agent.connected and link.cj.connected)
        parts += [_links(links), Text(), _open_tasks(links), Text()]
        agents = sum(link.agent.connected for link in found.links)
        payload = f"{agents} of {len(found.links)} agents connected, {payload}"
    return Group(*parts, *_finished(reading.jobs), Text(f"{payload}\n{where}", style="dim"))


def _open_jobs(reading: _Reading) -> Iterator[RenderableType]:
    """Show each job that is not over: what it waits for, or its open tasks with that."""
    for job in reading.open_jobs:
        if job.view is None:
            yield _not_begun(job, reading.jobs)
        else:
            yield job_line(job.view)
            yield from _tasks(job.view)
        yield Text()


def _not_begun(job: ListedJob, jobs: JobList) -> Text:
    status = display.status(f"{job.status} for {humanize.age((jobs.now - job.changed) / 1000)}")
    details = jobs.details(job)
    return Text.assemble("job ", (job.name, "bold"), "  ", status, f": {details}" if details else "")


def _tasks(job: JobView) -> Iterator[RenderableType]:
    for task in job.tasks:
        record = task.record
        yield display.indented(Text.assemble(record.name, " ", (record.root_id, "dim"), f"  {humanize.age(task.age)}"))
        yield display.indented(task.waiting, 4)


def _missing(reading: _Reading) -> Iterator[RenderableType]:
    """Name all that are not connected, each with its state."""
    sides: list[tuple[str, Presence]] = []
    for server in reading.servers:
        sides += [(f"server {server.fqcn}", server.server)]
        sides += [(f"site {site.name}", site.presence) for site in server.sites]
    for job in reading.open_jobs:
        if (view := job.view) and view.runs:
            sides += [(f"server of job {view.name}", view.server)]
            sides += [(f"site {site.name} of job {view.name}", site.presence) for site in view.sites]
    for link in reading.found.links:
        sides += _missing_of(link)
    absent = [(name, side) for name, side in sides if not side.connected]
    if absent:
        yield Text("Missing", style="bold")
        yield from (display.indented(Text.assemble(name, "  ", display.presence(side))) for name, side in absent)
        yield Text()


def _missing_of(link: LinkStatus) -> Iterator[tuple[str, Presence]]:
    """Yield the sides of a link that may be missing, each with its name.

    A CJ comes and leaves with its job, so one that said bye is not missing; nor is an agent that did the same when no
    CJ is there to wait for it.
    """
    cj_is_away = link.cj.state in ("left", "never")
    if link.task or not (cj_is_away and link.agent.state == "left"):
        yield f"agent {link.fqcn}", link.agent
    if link.task or not cj_is_away:
        yield f"CJ of agent {link.fqcn}", link.cj


def _server(server: JobView) -> Group:
    """Show a server with its sites, in one line for all that are connected."""
    line = Text.assemble("server ", (server.fqcn, "bold"), "  ", display.presence(server.server))
    there = [site.name for site in server.sites if site.presence.connected]
    sites = f"{len(there)} of {len(server.sites)} sites connected" + (f": {', '.join(there)}" if there else "")
    return Group(line, display.indented(sites), Text())


def _finished(jobs: JobList) -> Iterator[RenderableType]:
    """Count the jobs that are over, by how they ended, in one line."""
    over = [job for job in jobs.jobs if not job.is_open]
    if not over:
        return
    ends = Counter(job.status.removeprefix("FINISHED:") for job in over)
    last = max(over, key=lambda job: job.changed)
    counts = ", ".join(f"{count} {end}" for end, count in ends.most_common())
    since = humanize.age((jobs.now - last.changed) / 1000)
    text = f"{len(over)} finished: {counts}, last {last.name} {since} ago"
    yield Text(text, no_wrap=True, overflow="ellipsis") if display.has_width() else Text(text)


def _links(links: Sequence[LinkStatus]) -> Table:
    table = display.table("Agent", "State", "CJ", "T/R/D", "Payload")
    for link in links:
        queues = Text.assemble(f"{link.tasks}/{link.results}/", (str(link.dead), "red" if link.dead else ""))
        payload = humanize.size(link.blob_bytes) if link.blob_bytes else "-"
        table.add_row(Text(link.fqcn), display.presence(link.agent), display.presence(link.cj), queues, payload)
    return table


def _open_tasks(links: Sequence[LinkStatus]) -> Group:
    """Two lines for each open task: its names, and what it waits for."""
    lines: list[RenderableType] = [Text("Open tasks", style="bold")]
    for link in links:
        if task := link.task:
            lines.append(Text.assemble(link.fqcn, "  ", task.name, " ", (task.task_id, "dim")))
            lines.append(display.indented(display.status(link.waiting)))
    return Group(*lines) if len(lines) > 1 else Group(Text("no open tasks", style="dim"))
