"""``redflare task``."""

from __future__ import annotations

from typing import Annotated

import typer
from redflare_broker.inspection.federation import LinkTaskView
from redflare_broker.util import humanize
from rich.console import Group
from rich.text import Text

from . import display
from .connection import Target, connected
from .exit_codes import EXIT_CODES, NOT_FOUND, fail

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command(epilog=EXIT_CODES)
@connected
def task(
    target: Target,
    task_id: Annotated[
        str, typer.Argument(help="The task's whole id, as `redflare status` shows it.", show_default=False)
    ],
    agent: Annotated[
        str | None, typer.Option("--agent", "-a", help="Full name (FQCN) of the agent: site-1--trainer; default: all.")
    ] = None,
    as_json: display.Json = False,
) -> None:
    """Show one task of an agent: when it was assigned, fetched, submitted and settled, and why it waits.

    A settled task is kept for an hour, or as configured at the client
    job (retention.settled_retention).

    [bold]Examples[/bold]
    redflare task 3f0c2a52-5c1d-4b1e-9d8e-0d8a1f6a7b11
    redflare task round-3.site-1 --agent site-1--trainer --json
    """
    views = target.inspector.task(task_id, agent)
    if as_json:
        display.print_json([view.to_json() for view in views])
    if not views and not agent and (jobs := target.inspector.jobs.with_task(task_id)):
        fail(
            f"{task_id} is a task of job {jobs[0]}, not of an agent: `redflare job show {jobs[0]}` shows it, and the "
            "ids that agents know it by",
            NOT_FOUND,
        )
    if not views:
        place = f"agent {agent}" if agent else "any agent"
        fail(
            f"no task {task_id!r} of {place} in namespace {target.namespace!r}: it may have expired; "
            "`redflare status` shows the open tasks",
            NOT_FOUND,
        )
    if not as_json:
        for view in views:
            display.console().print(_show(view))


def _show(view: LinkTaskView) -> Group:
    task = view.task
    title = Text.assemble((task.name or "(no name)", "bold"), " ", task.task_id, (f"  on {task.fqcn}", "dim"))
    facts = display.facts()
    facts.add_row("task", _payload(task.size, task.blob, view.task_blob_bytes))
    if task.submitted:
        facts.add_row("result", _payload(task.result_size, task.result_blob, view.result_blob_bytes))
    for side in (view.agent, view.cj):
        facts.add_row(side.label, Text.assemble(display.presence(side), f"  {side.place}" if side.place else ""))
    if task.ttl_ms > 0:
        facts.add_row("expires", f"in {humanize.age(task.ttl_ms / 1000)}, unless it is renewed")
    events = display.timeline([(event.time_ms, event.text) for event in task.events()], digits=3)
    return Group(title, display.status(view.waiting), Text(), events, Text(), facts, Text())


def _payload(size: int, blob: str, stored: int) -> str:
    if not blob:
        return f"{humanize.size(size)} in its stream entry"
    return f"{humanize.size(size)} in chunks" + (
        f", {humanize.size(stored)} of them in Redis" if stored else ", deleted"
    )
