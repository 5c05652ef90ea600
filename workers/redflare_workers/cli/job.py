"""``redflare job``: list and show, and the group of all its commands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

import typer
from redflare_broker.inspection.job_view import ClientTaskView, JobTask, JobView, SiteView
from redflare_broker.job_store.record import JobRecord
from redflare_broker.util import humanize
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from . import job_download, job_end, job_log, job_submit, showing
from .connecting import EXIT_CODES, NOT_FOUND, Target, connected, fail
from .job_picture import picture, waits_for
from .stored_jobs import ServerName, complete_job, find, now, server_there, store_of

app = typer.Typer(
    help="Jobs: submit, watch, abort, fetch, delete; who serves them, which tasks stand, what they wait for.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode="rich",
)

#: Sites that are named in one line, before the rest is counted.
_NAMED = 8

#: A job of the store, one that has begun, or both in one.
Both = tuple[JobRecord | None, JobView | None]

app.command("submit", epilog=EXIT_CODES)(job_submit.submit)


@app.command("list", epilog=EXIT_CODES)
@connected
def list_jobs(
    target: Target,
    open_only: Annotated[bool, typer.Option("--open", "-o", help="Only those that are not over.")] = False,
    server: ServerName = "server",
    as_json: showing.Json = False,
) -> None:
    """All jobs: status, connected sites, tasks that stand, and what each waits for.

    Submitted jobs are remembered for a week after their end; a job that was
    run without `redflare server` for an hour. The server's configuration may
    say otherwise. Exit code 1 when there is none.

    [bold]Examples[/bold]
    redflare job list --open
    redflare job list --json | jq -r '.[] | select(.tasks != []) | .fqcn'
    redflare job list --json | jq -r '.[] | [.job_id, .record.status] | @tsv'
    """
    both = _paired(store_of(target, server).list(), target.inspector.jobs.all(), server)
    jobs = [each for each in both if not open_only or _open(each)]
    if as_json:
        showing.print_json([_to_json(record, story, server) for record, story in jobs])
    elif jobs:
        there, moment = server_there(target, server), now(target)
        table = showing.table("Job", "Status", "Sites", "Tasks", "What it waits for")
        for record, story in jobs:
            table.add_row(*_row(record, story, moment, there))
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
        typer.Argument(
            help="The job's id, the beginning of it, or the FQCN of its server (`redflare job list`).",
            show_default=False,
            autocompletion=complete_job,
        ),
    ],
    server: ServerName = "server",
    as_json: showing.Json = False,
) -> None:
    """One job: its history, its sites and what each does, its tasks and why they are not done.

    What was submitted comes first: every status with its time, why it waits to
    be scheduled, how each site ended. Then, once it runs, its server and its
    sites; each is one of these, the time behind it is the age of the last
    heartbeat:
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
    redflare job show server.job-7 --json | jq -r '.[].tasks[].waiting'
    """
    record = find(store_of(target, server), job.removeprefix(f"{server}."))
    stories = target.inspector.jobs.find(f"{server}.{record.id}" if record else job)
    found: list[Both] = _paired([record] if record else [], stories, server)
    if as_json:
        showing.print_json([_to_json(each, story, server) for each, story in found])
    if not found:
        fail(
            f"no job {job!r} in namespace {target.namespace!r}: `redflare job list` shows those that are there",
            NOT_FOUND,
        )
    if not as_json:
        there, moment = server_there(target, server), now(target)
        for each, story in found:
            parts = [*(picture(each, moment, server=there) if each else ()), *([_picture(story)] if story else [])]
            showing.console().print(*parts, sep="\n")


app.command("log", epilog=EXIT_CODES)(job_log.log)
app.command("abort", epilog=EXIT_CODES)(job_end.abort)
app.command("download", epilog=EXIT_CODES)(job_download.download)
app.command("delete", epilog=EXIT_CODES)(job_end.delete)


def _paired(records: Sequence[JobRecord], stories: Sequence[JobView], server: str) -> list[Both]:
    """Each job once, with what the store says of it and what its own server does; those of the store first."""
    left = {story.fqcn: story for story in stories}
    both: list[Both] = [(record, left.pop(f"{server}.{record.id}", None)) for record in records]
    # what is over and not in the store of a server that has one was deleted
    kept = left.pop(server, None) is not None
    gone = [name for name, story in left.items() if kept and not story.runs and name.startswith(f"{server}.")]
    return both + [(None, story) for name, story in left.items() if name not in gone]


def _open(job: Both) -> bool:
    record, story = job
    return not record.finished if record else bool(story and story.runs)


def _to_json(record: JobRecord | None, story: JobView | None, server: str) -> dict[str, object]:
    if story:
        told = story.to_json()
    else:
        assert record
        name = f"{server}.{record.id}"
        told = {
            "fqcn": name,
            "job_id": record.id,
            "status": record.status,
            "reason": record.reason,
            "tasks": [],
            "sites": [],
        }
    return {**told, "record": record.to_json() if record else None}


def _row(record: JobRecord | None, story: JobView | None, moment: int, there: bool) -> list[Text | str]:
    sites = f"{story.connected}/{len(story.sites)}" if story and (not record or not record.finished) else ""
    tasks = str(len(story.tasks)) if story else ""
    if record is None:
        assert story
        words = showing.status(story.waiting) if not story.runs else Text(story.waiting)
        return [Text(story.fqcn), showing.side(story.server), sites, tasks, words]
    waits = waits_for(record, moment, server=there)
    if not waits and story and not record.finished:
        waits = story.waiting
    age = humanize.age((moment - record.changed) / 1000)
    status = Text.assemble(showing.status(record.status.removeprefix("FINISHED:")), (f" {age}", "dim"))
    name = Text.assemble((record.name, "bold"), "\n" if record.name else "", record.id)
    return [name, status, sites, tasks, Text(waits)]


def _picture(job: JobView) -> Group:
    parts: list[RenderableType] = [showing.job_line(job), _facts(job), Text()]
    if job.sites:
        parts += [_sites(job), Text()]
    if job.tasks:
        parts += [Text("Tasks that stand", style="bold"), *_tasks(job), Text()]
    if job.ended_tasks:
        parts += [Text("Tasks that have ended", style="bold"), *_ended(job.ended_tasks), Text()]
    return Group(*parts)


def _facts(job: JobView) -> Table:
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim")
    facts.add_column(overflow="fold")
    server = Text.assemble(showing.side(job.server), f"  {job.server.place}" if job.server.place else "")
    facts.add_row("server", server)
    if job.run:
        ago = humanize.age((job.now - job.begun) / 1000)
        before = f", goes on from run {job.previous[:8]}" if job.began == "RESUMED" else ""
        facts.add_row("run", f"{job.run[:8]}, begun {ago} ago{before}")
    if job.started and job.began == "RESUMED":
        facts.add_row("started", f"{humanize.age((job.now - job.started) / 1000)} ago")
    if job.checkpoint:
        facts.add_row("checkpoint", str(job.checkpoint))
    facts.add_row("inbox", f"{job.inbox} {'message' if job.inbox == 1 else 'messages'} for the server")
    if job.payloads:
        facts.add_row("payloads", f"{job.payloads} in chunks")
    return facts


def _sites(job: JobView) -> Table:
    table = showing.table("Site", "", "Joined", "What it does", "Answered")
    for site in job.sites:
        place = f"\n{site.attendance.place}" if site.attendance.place else ""
        name = Text.assemble((site.name, "bold"), (place, "dim"))
        joined = f"{humanize.age((job.now - site.attendance.since_ms) / 1000)} ago"
        table.add_row(name, showing.side(site.attendance), joined, _doing(site, job), str(site.answered))
    return table


def _doing(site: SiteView, job: JobView) -> Text:
    doing = []
    for _, name, share in site.has:
        often = f", sent {share.count} times" if share.count > 1 else ""
        brought = ", its result is at the server" if share.id in site.brings else ""
        doing.append(f"has {name} for {humanize.age(share.age)}{often}{brought}")
    if site.asks_since:
        doing.append(f"waits for a task for {humanize.age((job.now - site.asks_since) / 1000)}")
    return Text("\n".join(doing) or "-")


def _tasks(job: JobView) -> Iterator[RenderableType]:
    for task in job.tasks:
        left = task.timeout_left
        ends = f", times out in {humanize.age(left)}" if left is not None else ""
        yield Text.assemble((task.name, "bold"), " ", (task.root_id, "dim"))
        yield _under(f"{_scheduled(task)} {humanize.age(task.age)} ago{ends}")
        for share in task.holders[:_NAMED]:
            yield _under(f"{share.site} has it for {humanize.age(share.age)}, as {share.id}")
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
    said = f"data: {humanize.size(task.size)}"
    if not task.blob:
        return f"{said} in its ledger"
    there = "" if task.stored >= task.blob_bytes else f", of which {humanize.size(task.stored)} are left"
    return f"{said} in chunks {task.blob}{there}"


def _shares(shares: Sequence[ClientTaskView]) -> str:
    return _listed([share.site + (f" ({share.rc})" if share.rc not in ("", "OK") else "") for share in shares])


def _listed(names: Sequence[str]) -> str:
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _ended(tasks: Sequence[JobTask]) -> Iterator[RenderableType]:
    for task in tasks:
        status = showing.status(f"{task.status} {humanize.age(task.age)} ago")
        yield Text.assemble((task.name, "bold"), " ", (task.root_id, "dim"), "  ", status)
        took = humanize.age((task.ended - task.scheduled) / 1000)
        yield _under(f"{_kind(task)}, took {took}, {len(task.answers)} of {len(task.client_tasks)} answered")
