"""``redflare job``: list, show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

import typer
from redflare_broker import wording
from redflare_broker.job_story import ClientTaskStory, JobStory, JobTask, SiteStory
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from . import showing
from .connecting import EXIT_CODES, NOT_FOUND, Target, connected, fail

app = typer.Typer(
    help="Jobs: who serves them, who takes part, which tasks stand, and what they wait for.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode="rich",
)

#: Sites that are named in one line, before the rest is counted.
_NAMED = 8


@app.command("list", epilog=EXIT_CODES)
@connected
def list_jobs(target: Target, as_json: showing.Json = False) -> None:
    """All jobs: status, server, connected sites, tasks that stand, and what each waits for.

    A job that has ended is remembered for an hour, unless the server's
    configuration says otherwise (retention.settled_retention). Exit code 1
    when there is none.

    [bold]Examples[/bold]
    redflare job list
    redflare job list --json | jq -r '.[] | select(.tasks != []) | .fqcn'
    """
    jobs = target.inspector.jobs.all()
    if as_json:
        showing.print_json([job.to_json() for job in jobs])
    elif jobs:
        table = showing.table("Job", "Server", "Sites", "Tasks", "What it waits for")
        for job in jobs:
            sites = f"{job.connected}/{len(job.sites)}"
            words = showing.status(job.waiting) if not job.runs else Text(job.waiting)
            table.add_row(Text(job.fqcn), showing.side(job.server), sites, str(len(job.tasks)), words)
        showing.console().print(table)
    else:
        typer.echo(f"no jobs in namespace {target.namespace}")
    if not jobs:
        raise typer.Exit(NOT_FOUND)


@app.command("show", epilog=EXIT_CODES)
@connected
def show(
    target: Target,
    job: Annotated[
        str,
        typer.Argument(help="The job's id, or the FQCN of its server (`redflare job list`).", show_default=False),
    ],
    as_json: showing.Json = False,
) -> None:
    """One job: its server, its sites and what each does, its tasks and why they are not done.

    The server and each site are one of these; the time behind it is the age of
    the last heartbeat:
    [green]● connected[/green]
    [yellow]◐ silent[/yellow]     more than three heartbeats are missing
    [red]○ gone[/red]       its heartbeat has expired
    [dim]○ left[/dim]       it said bye

    A task is a broadcast (all at once), a send (one of its targets) or a relay
    (one after the other). The ids that begin with "as" are those of the task
    at one site: an agent knows it by that one, and so does `redflare task`.
    Of the tasks that have ended the last ten are shown.

    [bold]Examples[/bold]
    redflare job show job-7
    redflare job show server.job-7 --json | jq -r '.tasks[].waiting'
    """
    found = target.inspector.jobs.find(job)
    if as_json:
        showing.print_json([each.to_json() for each in found])
    if not found:
        fail(
            f"no job {job!r} in namespace {target.namespace!r}: `redflare job list` shows those that are there",
            NOT_FOUND,
        )
    if not as_json:
        for each in found:
            showing.console().print(_picture(each))


def _picture(job: JobStory) -> Group:
    parts: list[RenderableType] = [showing.job_line(job), _facts(job), Text()]
    if job.sites:
        parts += [_sites(job), Text()]
    if job.tasks:
        parts += [Text("Tasks that stand", style="bold"), *_tasks(job), Text()]
    if job.ended_tasks:
        parts += [Text("Tasks that have ended", style="bold"), *_ended(job.ended_tasks), Text()]
    return Group(*parts)


def _facts(job: JobStory) -> Table:
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim")
    facts.add_column(overflow="fold")
    server = Text.assemble(showing.side(job.server), f"  {job.server.place}" if job.server.place else "")
    facts.add_row("server", server)
    if job.run:
        ago = wording.age((job.now - job.begun) / 1000)
        before = f", goes on from run {job.previous[:8]}" if job.began == "RESUMED" else ""
        facts.add_row("run", f"{job.run[:8]}, begun {ago} ago{before}")
    if job.started and job.began == "RESUMED":
        facts.add_row("started", f"{wording.age((job.now - job.started) / 1000)} ago")
    if job.checkpoint:
        facts.add_row("checkpoint", str(job.checkpoint))
    facts.add_row("inbox", f"{job.inbox} {'message' if job.inbox == 1 else 'messages'} for the server")
    if job.payloads:
        facts.add_row("payloads", f"{job.payloads} in chunks")
    return facts


def _sites(job: JobStory) -> Table:
    table = showing.table("Site", "", "Joined", "What it does", "Answered")
    for site in job.sites:
        place = f"\n{site.attendance.place}" if site.attendance.place else ""
        name = Text.assemble((site.name, "bold"), (place, "dim"))
        joined = f"{wording.age((job.now - site.attendance.since_ms) / 1000)} ago"
        table.add_row(name, showing.side(site.attendance), joined, _doing(site, job), str(site.answered))
    return table


def _doing(site: SiteStory, job: JobStory) -> Text:
    doing = []
    for _, name, share in site.has:
        often = f", sent {share.count} times" if share.count > 1 else ""
        brought = ", its result is at the server" if share.id in site.brings else ""
        doing.append(f"has {name} for {wording.age(share.age)}{often}{brought}")
    if site.asks_since:
        doing.append(f"waits for a task for {wording.age((job.now - site.asks_since) / 1000)}")
    return Text("\n".join(doing) or "-")


def _tasks(job: JobStory) -> Iterator[RenderableType]:
    for task in job.tasks:
        left = task.timeout_left
        ends = f", times out in {wording.age(left)}" if left is not None else ""
        yield Text.assemble((task.name, "bold"), " ", (task.root_id, "dim"))
        yield _under(f"{_scheduled(task)} {wording.age(task.age)} ago{ends}")
        for share in task.holders[:_NAMED]:
            yield _under(f"{share.site} has it for {wording.age(share.age)}, as {share.id}")
        rest = len(task.holders) - _NAMED
        if rest > 0:
            yield _under(f"and {rest} more have it")
        if task.answers:
            yield _under(f"answered: {_shares(task.answers)}")
        if task.targets is not None and task.not_asked:
            yield _under(f"has not got it: {_listed(task.not_asked)}")
        if task.size:
            yield _under(_payload(task))
        yield Padding(Text(task.waiting, style="yellow"), (0, 0, 0, 2))


def _under(text: str) -> Padding:
    return Padding(Text(text), (0, 0, 0, 2))


def _scheduled(task: JobTask) -> str:
    """``broadcast to all (min_responses 2)``."""
    whom = "whoever joins" if task.targets is None else _listed(task.targets)
    options = ", ".join(f"{name} {value}" for name, value in task.options.items() if value not in (0, None, False))
    return f"{_kind(task)} to {whom}" + (f" ({options})," if options else ",")


def _kind(task: JobTask) -> str:
    return task.kind.replace("_", " ")


def _payload(task: JobTask) -> str:
    said = f"data: {wording.size(task.size)}"
    if not task.blob:
        return f"{said} in its ledger"
    there = "" if task.stored >= task.blob_bytes else f", of which {wording.size(task.stored)} are left"
    return f"{said} in chunks {task.blob}{there}"


def _shares(shares: Sequence[ClientTaskStory]) -> str:
    return _listed([share.site + (f" ({share.rc})" if share.rc not in ("", "OK") else "") for share in shares])


def _listed(names: Sequence[str]) -> str:
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _ended(tasks: Sequence[JobTask]) -> Iterator[RenderableType]:
    for task in tasks:
        status = showing.status(f"{task.status} {wording.age(task.age)} ago")
        yield Text.assemble((task.name, "bold"), " ", (task.root_id, "dim"), "  ", status)
        took = wording.age((task.ended - task.scheduled) / 1000)
        yield _under(f"{_kind(task)}, took {took}, {len(task.answers)} of {len(task.client_tasks)} answered")
