"""``redflare task``."""

from __future__ import annotations

from typing import Annotated

import typer
from redflare_broker.inspection.federation import LinkTaskView
from redflare_broker.inspection.task_view import TaskView
from redflare_broker.util import humanize
from rich.console import Group
from rich.table import Table
from rich.text import Text

from . import showing
from .connecting import NOT_FOUND, Target, connected, fail


@connected
def task(
    target: Target,
    task_id: Annotated[str, typer.Argument(help="The task's id, as `redflare status` shows it.", show_default=False)],
    agent: Annotated[
        str | None, typer.Option("--agent", "-a", help="FQCN of the agent; without it all links are searched.")
    ] = None,
    as_json: showing.Json = False,
) -> None:
    """One task's whole story with its times: assigned, fetched, submitted, settled, and why it waits.

    A settled task is remembered for an hour, unless the CJ's configuration
    says otherwise (retention.settled_retention).

    [bold]Examples[/bold]
    redflare task 3f0c2a52-5c1d-4b1e-9d8e-0d8a1f6a7b11
    redflare task 7c1e --agent site-1--trainer --json
    """
    views = target.inspector.task(task_id, agent)
    if as_json:
        showing.print_json([view.to_json() for view in views])
    if not views and not agent and (jobs := target.inspector.jobs.with_task(task_id)):
        fail(
            f"{task_id} is a task of job {jobs[0]}, and not of an agent: `redflare job show {jobs[0]}` tells of it, "
            "and gives the ids that agents know it by",
            NOT_FOUND,
        )
    if not views:
        place = f"agent {agent}" if agent else "any agent"
        fail(
            f"no task {task_id!r} on the link of {place} in namespace {target.namespace!r}: settled tasks are "
            "forgotten after a while; `redflare status` shows the open ones",
            NOT_FOUND,
        )
    if not as_json:
        for view in views:
            showing.console().print(_picture(view))


def _picture(view: LinkTaskView) -> Group:
    story = view.story
    title = Text.assemble((story.name or "(no name)", "bold"), " ", story.task_id, (f"  on {story.fqcn}", "dim"))
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim")
    facts.add_column(overflow="fold")
    facts.add_row("task", _payload(story.size, story.blob, view.task_blob_bytes))
    if story.submitted:
        facts.add_row("result", _payload(story.result_size, story.result_blob, view.result_blob_bytes))
    for side in (view.agent, view.cj):
        facts.add_row(side.label, Text.assemble(showing.side(side), f"  {side.place}" if side.place else ""))
    if story.ttl_ms > 0:
        facts.add_row("forgotten", f"in {humanize.age(story.ttl_ms / 1000)}, unless it is renewed")
    return Group(title, showing.status(view.waiting), Text(), _moments(story), Text(), facts, Text())


def _moments(story: TaskView) -> Table:
    steps = Table.grid(padding=(0, 2))
    steps.add_column(no_wrap=True)
    steps.add_column(style="dim", justify="right", no_wrap=True)
    steps.add_column(overflow="fold")
    before = 0
    for step in story.moments():
        later = f"+{(step.time_ms - before) / 1000:.3f} s" if before else ""
        steps.add_row(showing.clock(step.time_ms, day=not before), later, step.what)
        before = step.time_ms
    return steps


def _payload(size: int, blob: str, stored: int) -> str:
    said = humanize.size(size)
    if not blob:
        return f"{said}, small enough for its stream entry"
    return (
        f"{said}, {humanize.size(stored)} of it in chunks that stand in Redis" if stored else f"{said}, chunks are gone"
    )
