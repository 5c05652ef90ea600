"""Following a job until it is over, and saying how it ended."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Final

import typer
from redflare_broker.job_store.record import COMPLETED, JobRecord, LogLine
from redflare_broker.job_store.store import JobStore
from rich.text import Text

from . import showing
from .connecting import NOT_FOUND, fail

#: Exit code of a job that did not complete.
NOT_COMPLETED: Final = 1


def watch(
    store: JobStore,
    job_id: str,
    *,
    after: str = "0-0",
    sites: Sequence[str] = (),
    quiet: bool = False,
    timeout: float | None = None,
    as_json: bool = False,
) -> None:
    """Print the lines of a job's log as they come, until it is over.

    Args:
        after: id of the last line that is known.
        sites: only theirs; empty: all.
        quiet: print nothing.
        timeout: seconds after which nothing more is waited for.
    """
    with store.follow(job_id, after) as lines:
        timer = threading.Timer(timeout, lines.close) if timeout is not None else None
        if timer:
            timer.daemon = True
            timer.start()
        try:
            for line in lines:
                if not quiet and wanted(line, sites):
                    tell(line, as_json=as_json)
        finally:
            if timer:
                timer.cancel()


def wanted(line: LogLine, sites: Sequence[str]) -> bool:
    """Whether a line is of one of these sites; changes of the status always are."""
    return not sites or bool(line.status) or line.site in sites


def tell(line: LogLine, *, as_json: bool) -> None:
    """Print one line."""
    if as_json:
        showing.print_json(line.to_json(), lines=True)
        return
    # the reason of a failure ends with lines of a log, which stand here anyway
    reason = line.text.partition("\n")[0]
    said = showing.status(f"{line.status} {reason}".rstrip()) if line.status else Text(line.text)
    who = line.site or "-"
    text = Text.assemble((showing.clock(line.at), "dim"), "  ", (f"{who:<10}", "cyan"), "  ", said)
    showing.console().print(text, soft_wrap=True)


def told_end(store: JobStore, job_id: str, *, as_json: bool) -> None:
    """Say how a job ended; exit code 1 unless it completed."""
    record = store.get(job_id)
    if record is None:
        fail(f"job {job_id} was deleted", NOT_FOUND)
    if as_json:
        showing.print_json(record.to_json(), lines=True)
    else:
        showing.console().print(ending(record), soft_wrap=True)
    if record.status != COMPLETED:
        raise typer.Exit(NOT_COMPLETED)


def ending(record: JobRecord) -> Text:
    """``FINISHED:ABORTED: by ann``, with how each site ended."""
    said = showing.status(record.status)
    if record.reason:
        said.append(": " + record.reason.partition("\n")[0])
    for name, site in record.sites.items():
        how = f" {site.how}" if site.how else ""
        said.append(f"\n  {name}  {site.status}{how}, {showing.clock(site.at)}", style="dim")
    return said
