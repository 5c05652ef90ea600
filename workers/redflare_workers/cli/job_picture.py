"""A job of the store for people: its line in a list, and all that is known of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from redflare_broker.job_store.record import JobRecord
from redflare_broker.util import humanize
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from . import showing
from .stored_jobs import ago

#: Statuses in which nothing but the server's decision is waited for.
_QUEUED: Final = ("SUBMITTED", "APPROVED")


def waits_for(record: JobRecord, now: int, *, server: bool) -> str:
    """Why a job does not go on, or how it ended; "": it goes on."""
    if record.finished:
        return record.reason.partition("\n")[0]
    if record.abort_requested:
        return f"its abort was asked for {ago(now, record.abort)}{_said(record.abort_reason)}"
    if not server:
        return "no server is there: start `redflare server`"
    if record.waiting:
        return record.waiting.reason
    return "the server has not looked at it yet" if record.status in _QUEUED else ""


def head(record: JobRecord, now: int) -> Text:
    """``job means 7c1e...  RUNNING for 3 min``."""
    since = humanize.age((now - record.changed) / 1000)
    said = showing.status(f"{record.status} {since} ago" if record.finished else f"{record.status} for {since}")
    return Text.assemble("job ", (record.name or "(no name)", "bold"), " ", record.id, "  ", said)


def picture(record: JobRecord, now: int, *, server: bool) -> Iterator[RenderableType]:
    """All that the store knows of a job."""
    yield head(record, now)
    yield _facts(record, now, server=server)
    yield Text()
    yield _history(record)
    if record.sites:
        yield Text()
        yield _sites(record, now)
    yield Text()


def _facts(record: JobRecord, now: int, *, server: bool) -> Table:
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim")
    facts.add_column(overflow="fold")
    if waits := waits_for(record, now, server=server):
        facts.add_row("reason" if record.finished else "waits", Text(record.reason if record.finished else waits))
    if not record.finished and record.waiting and server:
        facts.add_row("", f"for {humanize.age((now - record.waiting.at) / 1000)}")
    if record.abort:
        facts.add_row("abort", Text(f"asked for {ago(now, record.abort)} by {record.abort_by}"))
    facts.add_row("submitted", Text(f"{showing.clock(record.submitted, day=True)} by {record.submitter}"))
    facts.add_row("needs", Text(_needs(record)))
    if record.archive:
        facts.add_row("archive", humanize.size(record.archive.nbytes))
    if record.result:
        text = f"{humanize.size(record.result.nbytes)}; `redflare job download {record.id}` fetches it"
        facts.add_row("result", Text(text))
    return facts


def _needs(record: JobRecord) -> str:
    meta = record.meta
    parts = [f"min_clients {meta.get('min_clients', 1)}"]
    if mandatory := meta.get("mandatory_clients"):
        parts.append(f"above all {', '.join(map(str, mandatory))}")
    if agent := meta.get("agent_id"):
        parts.append(f"an agent {agent} at each site")
    if resources := meta.get("resource_spec"):
        parts.append(f"resources {resources}")
    return ", ".join(parts)


def _history(record: JobRecord) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(style="dim", justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    before = 0
    for moment in record.history:
        later = f"+{(moment.at - before) / 1000:.1f} s" if before else ""
        said = f"by {moment.by}" if moment.by else ""
        # what ended it stands above, as a whole
        reason = moment.reason.partition("\n")[0]
        text = Text(": ".join(part for part in (said, reason) if part))
        table.add_row(showing.clock(moment.at, day=not before), later, showing.status(moment.status), text)
        before = moment.at
    return table


def _sites(record: JobRecord, now: int) -> Table:
    table = showing.table("Site", "", "Since", "Exit", "How and why")
    for name, site in record.sites.items():
        code = "" if site.exit_code is None else str(site.exit_code)
        why = ": ".join(part for part in (site.how, site.reason) if part)
        table.add_row(Text(name, style="bold"), Text(site.status), ago(now, site.at), code, Text(why))
    return table


def _said(reason: str) -> str:
    return f": {reason}" if reason else ""
