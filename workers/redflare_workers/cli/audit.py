"""``redflare audit``: show and verify, from the files of a workspace alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Final, NoReturn

import typer
from redflare_broker.util import humanize
from rich.text import Text

from redflare_workers.audit.audit_files import audit_files, audit_folder, read_entries
from redflare_workers.audit.chain import ChainFault, ChainReport, compare, noted_heads, verify, writer_of
from redflare_workers.audit.entry import Action, AuditEntry

from . import display
from .exit_codes import FAILED, NOT_FOUND, USAGE, fail, note

_EXIT_CODES: Final = "Exit codes: 0 fine, 1 nothing there, or the log was changed, 2 wrong usage, 130 Ctrl-C."

app = typer.Typer(
    add_completion=False,
    help="Show the audit log of a server or a site, and check that nobody has changed it.",
    epilog=_EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode="rich",
)

Workspace = Annotated[Path, typer.Argument(help="Workspace of a server or a site.", show_default=False)]

#: Of ``show``, each with its widest cell.
_COLUMNS: Final = (("No", 6), ("Time", 19), ("Action", 8), ("About", 12), ("By", 12))
_STYLES: Final[dict[str, str]] = {
    Action.REFUSE: "red",
    Action.FAULT: "red",
    Action.LOSE: "red",
    Action.GAP: "red",
    Action.ABORT: "magenta",
    Action.RECOVER: "yellow",
    Action.RESTORE: "yellow",
}


@app.command("show", epilog=_EXIT_CODES)
def show(
    workspace: Annotated[Path, typer.Argument(help="Workspace of a server or a site.")] = Path("."),
    *,
    job: Annotated[str | None, typer.Option("--job", "-j", help="Only entries about the job of this id.")] = None,
    site: Annotated[str | None, typer.Option("--site", "-s", help="Only entries that name this site.")] = None,
    action: Annotated[
        list[Action] | None, typer.Option("--action", "-a", help="Only these; may be repeated.", show_default=False)
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, one entry on each line, with all facts.")
    ] = False,
) -> None:
    """Show what was asked for, decided and done, the oldest first.

    Who asked is shown as claimed, with a question mark, as long as it is what
    a message or a record says. Times are those of the machine that wrote the
    log. Whether somebody has changed the log is told by `verify`. Exit code 1
    if there are no such entries.

    [bold]Examples[/bold]
    redflare audit show /srv/redflare --job monday
    redflare audit show /srv/site-1 --action refuse --action fault
    redflare audit show /srv/redflare --json | jq -r 'select(.action == "end")'
    """
    folder = _folder(workspace)
    try:
        found = [each for each in read_entries(folder) if _is_wanted(each, job, site, action or ())]
    except OSError as error:
        _cannot_read(error)
    if as_json:
        for entry in found:
            display.print_json(entry.to_json(), lines=True)
    elif found:
        table = display.one_line_table(*_COLUMNS, rest="Reason and facts")
        for entry in found:
            by = f"{entry.by} ?" if entry.claimed else entry.by
            styled = Text(entry.action, style=_STYLES.get(entry.action, ""))
            time = display.clock(entry.at, day=True).partition(".")[0]
            table.add_row(str(entry.sequence), time, styled, Text(_about(entry)), Text(by), Text(_details(entry)))
        display.print_lines(table)
    else:
        display.say(f"no such entries in {folder}")
    if not found:
        raise typer.Exit(NOT_FOUND)


def _is_wanted(entry: AuditEntry, job: str | None, site: str | None, actions: Sequence[Action]) -> bool:
    return (
        (job is None or entry.subject.get("job") == job)
        and (site is None or entry.is_about("site", site) or (site == entry.by and entry.claimed))
        and (not actions or entry.action in actions)
    )


def _about(entry: AuditEntry) -> str:
    return next((value for name, value in entry.subject.items() if name != "submission"), "-")


def _details(entry: AuditEntry) -> str:
    """Return the reason on one line, and the facts that are short."""
    return "; ".join(filter(None, [" ".join(entry.reason.split()), *_short_facts(entry)]))


def _short_facts(entry: AuditEntry) -> Iterator[str]:
    for name, value in entry.facts.items():
        if isinstance(value, list):
            yield f"{name} {humanize.first([str(each) for each in value], 5)}"
        elif (
            isinstance(value, str | int)
            and (value not in ("", 0) or name == "exit_code")
            and name not in ("run", "fingerprint", "archive")
        ):
            yield f"{name} {value}"


@app.command("verify", epilog=_EXIT_CODES)
def check(
    workspace: Workspace,
    against: Annotated[
        Path | None,
        typer.Option(
            "--against",
            help="Workspace of the server, for a site's log; for the server's, that of a site.",
            show_default=False,
        ),
    ] = None,
    as_json: display.Json = False,
) -> None:
    """Check the whole log, without Redis: the first entry that was altered, removed, inserted or moved is named.

    Each entry has the hash of the one before it. That the last entries were
    cut, or that all was written anew with new hashes, is found by another
    log only: the server's has the last entries of its sites as they were at
    each job's start and end, and a site's has that of the server.

    [bold]Examples[/bold]
    redflare audit verify /srv/redflare
    redflare audit verify /srv/site-1 --against /srv/redflare
    """
    folder = _folder(workspace)
    other = _folder(against) if against is not None else None
    try:
        report = verify(folder)
        fault, compared = report.fault, 0
        if fault is None and other is not None:
            fault, compared = _compared(folder, other)
    except OSError as error:
        _cannot_read(error)
    if as_json:
        display.print_json(_document(report, fault, compared))
    elif fault is None:
        display.say(_praise(report, compared))
    if report.torn and not as_json:
        note(f"{report.torn} has no end: it is being written, or its writer was killed and has not started again")
    if fault is not None:
        text = f"entry {fault.sequence} is the first that is not as it was written: {fault}"
        if as_json:
            raise typer.Exit(FAILED)
        fail(text, FAILED)


def _compared(folder: Path, other: Path) -> tuple[ChainFault | None, int]:
    """Compare a log with the heads that another has noted; return what is wrong, and how many there are."""
    if (wrong := verify(other).fault) is not None:
        fail(f"the log to compare with was changed itself: {wrong}", FAILED)
    writer = writer_of(folder)
    heads = list(noted_heads(other, writer))
    if not heads:
        fail(f"{other} has noted no entry of {writer or folder}: nothing can be compared", FAILED)
    return compare(folder, heads), len(heads)


def _praise(report: ChainReport, compared: int) -> str:
    last = report.last
    end = f", the last of {last.time}, {last.hash}" if last else ""
    also = f"; {compared} of them are as the other log has noted them" if compared else ""
    return f"{report.entries} entries are as they were written{end}{also}"


def _document(report: ChainReport, fault: ChainFault | None, compared: int) -> dict[str, object]:
    return {
        "entries": report.entries,
        "last": report.last.to_json() if report.last else None,
        "compared": compared,
        "torn": report.torn,
        "fault": {"sequence": fault.sequence, "place": fault.place, "text": fault.text} if fault else None,
    }


def _folder(workspace: Path) -> Path:
    """Return the folder of a workspace's audit log, or end the command if there is none."""
    folder = audit_folder(workspace)
    if not audit_files(folder):
        fail(
            f"there is no audit log in {folder}: {workspace} is the workspace of no server or site that has run", USAGE
        )
    return folder


def _cannot_read(error: OSError) -> NoReturn:
    fail(f"cannot read {error.filename}: {error.strerror or error}", USAGE)
