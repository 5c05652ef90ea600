"""A job in the terminal: its record in the job store, and its view while it runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from redflare_broker.inspection.job_view import ClientTaskView, JobTaskView, JobView, SiteView
from redflare_broker.inspection.jobs import MOST_ENDED
from redflare_broker.job_store.record import JobRecord, SiteState, summary
from redflare_broker.util import humanize
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from . import display
from .display import indented

#: Sites that are named in one line, before the rest is counted.
_NAMED: Final = 8
#: Statuses in which only the server's decision is missing.
_QUEUED: Final = ("SUBMITTED", "APPROVED")


def ago(now: int, since: int) -> str:
    """``3 min ago``."""
    return f"{humanize.age((now - since) / 1000)} ago"


# -- the record in the job store -----------------------------------------------------------------------------------


def reason_of(record: JobRecord, now: int, *, server_is_running: bool) -> str:
    """Why a job waits, or how it ended; "" if it is running."""
    if record.finished:
        return summary(record.reason)
    if record.abort_requested:
        reason = f": {record.abort_reason}" if record.abort_reason else ""
        return f"abort requested {ago(now, record.abort)}{reason}"
    if not server_is_running:
        return "no server is running: start `redflare server`"
    if record.waiting:
        return record.waiting.reason
    return "the server has not checked it yet" if record.status in _QUEUED else ""


def ending(record: JobRecord) -> Text:
    """``FINISHED:ABORTED: by ann``, and how each site ended it."""
    text = display.status(record.status)
    if record.reason:
        text.append(": " + summary(record.reason))
    for name, site in record.sites.items():
        how = f" {_how(site)}" if site.how else ""
        text.append(f"\n  {name}  {site.status}{how}, {display.clock(site.at)}", style="dim")
    return text


def show_record(record: JobRecord, now: int, *, server_is_running: bool) -> Iterator[RenderableType]:
    """Show all that the store holds of a job."""
    since = humanize.age((now - record.changed) / 1000)
    status = display.status(f"{record.status} {since} ago" if record.finished else f"{record.status} for {since}")
    yield Text.assemble("job ", (record.name or "(no name)", "bold"), " ", record.id, "  ", status)
    yield _record_facts(record, now, server_is_running=server_is_running)
    yield Text()
    yield _history(record)
    if record.sites:
        yield Text()
        yield _record_sites(record, now)
    yield Text()


def _record_facts(record: JobRecord, now: int, *, server_is_running: bool) -> Table:
    facts = display.facts()
    if reason := reason_of(record, now, server_is_running=server_is_running):
        facts.add_row("reason" if record.finished else "waiting", Text(record.reason if record.finished else reason))
    if not record.finished and record.waiting and server_is_running:
        facts.add_row("", f"for {humanize.age((now - record.waiting.at) / 1000)}")
    if record.abort:
        facts.add_row("abort", Text(f"requested {ago(now, record.abort)} by {record.abort_by}"))
    facts.add_row("submitted", Text(f"{display.clock(record.submitted, day=True)} by {record.submitter}"))
    facts.add_row("requires", Text(_requirements(record)))
    if record.archive:
        facts.add_row("archive", humanize.size(record.archive.nbytes))
    if record.result:
        text = f"{humanize.size(record.result.nbytes)}, fetch it with `redflare job download {record.id}`"
        facts.add_row("result", Text(text))
    return facts


def _how(site: SiteState) -> str:
    """``cooperative, agent site-1--trainer killed``; "" if no abort has ended it."""
    return ", ".join(filter(None, (site.how, site.agents_left)))


def _requirements(record: JobRecord) -> str:
    meta = record.meta
    parts = [f"min_clients {meta.get('min_clients', 1)}"]
    if mandatory := meta.get("mandatory_clients"):
        parts.append(f"mandatory_clients {', '.join(map(str, mandatory))}")
    if agent := meta.get("agent_id"):
        parts.append(f"agent {agent} at each site")
    parts += [f"agent {', '.join(agents)} (app {app})" for app, agents in record.agents.items()]
    if resources := meta.get("resource_spec"):
        parts.append(f"resources {resources}")
    return "; ".join(parts)


def _history(record: JobRecord) -> Table:
    changes = []
    for change in record.history:
        # the reason of the end is shown above, whole
        reason = "" if record.finished and change.reason == record.reason else summary(change.reason)
        parts = (f"by {change.by}" if change.by else "", reason)
        text = Text(": ".join(part for part in parts if part))
        changes.append((change.at, display.status(change.status), text))
    return display.timeline(changes, digits=1)


def _record_sites(record: JobRecord, now: int) -> Table:
    table = display.table("Site", "Status", "Since", "Exit code", "How and why")
    for name, site in record.sites.items():
        code = "" if site.exit_code is None else str(site.exit_code)
        # most sites end as the job does, and its reason is shown above
        is_same = summary(site.reason) == f"{record.status}: {summary(record.reason)}"
        why = ": ".join(part for part in (_how(site), record.status if is_same else site.reason) if part)
        table.add_row(Text(name, style="bold"), Text(site.status), ago(now, site.at), code, Text(why))
    return table


# -- the view of a job that has begun ------------------------------------------------------------------------------


def job_line(job: JobView) -> Text:
    """``job job-7  RUNNING for 3 min``, with what it is waiting for unless its tasks are shown with that."""
    text = job.waiting
    if job.runs:
        tasks_explain = bool(job.tasks) and job.server.connected and job.connected
        text = f"{job.status or 'NEW'} for {humanize.age(job.age)}" + ("" if tasks_explain else f": {text}")
    return Text.assemble("job ", (job.name, "bold"), "  ", display.status(text))


def show_job(job: JobView) -> Iterator[RenderableType]:
    """Show a job's server, its sites and its tasks."""
    yield job_line(job)
    yield _job_facts(job)
    yield Text()
    if job.sites:
        yield _job_sites(job)
        yield Text()
    if job.tasks:
        yield Text("Open tasks", style="bold")
        for task in job.tasks:
            yield from _open_task(task)
        yield Text()
    if job.ended_tasks:
        yield Text("Ended tasks", style="bold")
        for task in job.ended_tasks:
            yield from _ended_task(task)
        yield Text()


def _job_facts(job: JobView) -> Table:
    facts = display.facts()
    place = f"  {job.server.place}" if job.server.place else ""
    facts.add_row("server", Text.assemble(display.presence(job.server), place))
    if job.run:
        resumed = f", resumed from run {job.previous[:8]}" if job.began == "RESUMED" else ""
        facts.add_row("run", f"{job.run[:8]}, started {ago(job.now, job.begun)}{resumed}")
    if job.started and job.began == "RESUMED":
        facts.add_row("first run", f"started {ago(job.now, job.started)}")
    if job.checkpoint:
        facts.add_row("checkpoint", str(job.checkpoint))
    facts.add_row("inbox", f"{job.inbox} {'message' if job.inbox == 1 else 'messages'} for the server")
    if job.payloads:
        facts.add_row("payloads", f"{job.payloads} in chunks")
    return facts


def _job_sites(job: JobView) -> Table:
    table = display.table("Site", "State", "Joined", "Activity", "Results")
    for site in job.sites:
        place = f"\n{site.presence.place}" if site.presence.place else ""
        name = Text.assemble((site.name, "bold"), (place, "dim"))
        joined = ago(job.now, site.presence.since_ms)
        # there may be older tasks, which were not read
        results = f"{site.answered}+" if len(job.ended_tasks) == MOST_ENDED else str(site.answered)
        table.add_row(name, display.presence(site.presence), joined, _activity(site, job), results)
    return table


def _activity(site: SiteView, job: JobView) -> Text:
    lines = []
    for _, name, client_task in site.working_on:
        often = f", sent {client_task.record.count} times" if client_task.record.count > 1 else ""
        submitted = ", its result is at the server" if client_task.record.id in site.submitted else ""
        lines.append(f"working on {name} for {humanize.age(client_task.age)}{often}{submitted}")
        if at_agent := site.at_agent.get(client_task.record.id):
            lines.append(f"its agent: {at_agent.waiting}")
    if site.requested:
        lines.append(f"waiting for a task for {humanize.age((job.now - site.requested) / 1000)}")
    return Text("\n".join(lines) or "-")


def _open_task(task: JobTaskView) -> Iterator[RenderableType]:
    left = task.timeout_left
    timeout = f", times out in {humanize.age(left)}" if left is not None else ""
    yield Text.assemble((task.record.name, "bold"), " ", (task.record.root_id, "dim"))
    yield indented(f"{_schedule(task)} {humanize.age(task.age)} ago{timeout}")
    for client_task in task.pending[:_NAMED]:
        yield indented(f"sent to {client_task.site} {humanize.age(client_task.age)} ago, as {client_task.record.id}")
    rest = len(task.pending) - _NAMED
    if rest > 0:
        yield indented(f"sent to {rest} more")
    if task.answered:
        yield indented(f"results: {_with_rc(task.answered)}")
    if task.not_sent:
        yield indented(f"not sent to: {_listed(task.not_sent)}")
    if task.size:
        yield indented(_data(task))
    yield indented(Text(task.waiting, style="yellow"))


def _ended_task(task: JobTaskView) -> Iterator[RenderableType]:
    status = display.status(f"{task.record.status} {humanize.age(task.age)} ago")
    yield Text.assemble((task.record.name, "bold"), " ", (task.record.root_id, "dim"), "  ", status)
    took = humanize.age((task.ended - task.scheduled) / 1000)
    yield indented(f"{_kind(task)}, took {took}, {len(task.answered)} of {len(task.client_tasks)} sites answered")


def _schedule(task: JobTaskView) -> str:
    """``broadcast to all sites (min_responses 2),``."""
    targets = task.record.targets
    whom = "all sites" if targets is None else _listed(targets)
    options = [f"{name} {value}" for name, value in task.record.options.items() if value not in (0, None, False)]
    return f"{_kind(task)} to {whom}" + (f" ({', '.join(options)})," if options else ",")


def _kind(task: JobTaskView) -> str:
    return task.record.kind.replace("_", " ")


def _data(task: JobTaskView) -> str:
    size = f"data: {humanize.size(task.size)}"
    if not task.blob:
        return f"{size} in its ledger"
    lost = "" if task.stored >= task.blob_bytes else f", of which {humanize.size(task.stored)} are left"
    return f"{size} in chunks {task.blob}{lost}"


def _with_rc(client_tasks: Sequence[ClientTaskView]) -> str:
    named = [(each.site, each.record.rc) for each in client_tasks]
    return _listed([site + (f" ({rc})" if rc not in ("", "OK") else "") for site, rc in named])


def _listed(names: Sequence[str]) -> str:
    return humanize.first(names, _NAMED)
