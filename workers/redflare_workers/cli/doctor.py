"""``redflare doctor``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.table import Table
from rich.text import Text

from . import display
from .connection import Target, connected, existing_folder
from .doctor_checks import CheckResult, Finding, run_checks
from .exit_codes import FAILED

EXIT_CODES: Final = (
    "Exit codes: 0 ready (perhaps with advice), 1 something must be changed, 2 wrong usage, 3 Redis is unavailable or "
    "refuses the login, 130 Ctrl-C."
)
_SYMBOLS: Final = {CheckResult.OK: ("✓", "green"), CheckResult.ADVICE: ("!", "yellow"), CheckResult.BAD: ("✗", "red")}


app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command(epilog=EXIT_CODES)
@connected
def doctor(
    target: Target,
    workspace: Annotated[
        Path | None,
        typer.Option(
            "--workspace",
            "-w",
            envvar="REDFLARE_WORKSPACE",
            help="Connect as this workspace says (namespace, certificates, user, password file), and check it.",
            show_default=False,
            callback=existing_folder,
        ),
    ] = None,
    as_json: display.Json = False,
) -> None:
    """Check that Redis is ready for jobs, and say what to change.

    Checks the version, persistence, eviction policy, memory and clock of
    Redis, what a restart would forget, encryption and login, and tries every
    command that links, cells and jobs send, with the rights of this user. Writes a few test keys, and
    removes them.

    [green]✓[/green]  fine
    [yellow]![/yellow]  works; review
    [red]✗[/red]  must be changed; the exit code is then 1

    [bold]Examples[/bold]
    redflare doctor
    redflare doctor --url rediss://redis.example.org --workspace /srv/site-1
    redflare doctor --user site-1 --password-file redis.password
    redflare doctor --json | jq '.findings[] | select(.result == "bad")'
    """
    # it says at once what it finds
    target.server.retries = None
    findings = list(run_checks(target.server, target.namespace, target.url, workspace))
    is_ready = all(finding.result is not CheckResult.BAD for finding in findings)
    document = {"url": target.server.url, "ready": is_ready, "findings": [asdict(finding) for finding in findings]}
    display.output(document, _show(findings), as_json=as_json)
    if not is_ready:
        raise typer.Exit(FAILED)


def _show(findings: list[Finding]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        symbol, style = _SYMBOLS[finding.result]
        text = Text(finding.text)
        if finding.remedy:
            text.append(f"\n{finding.remedy}", style=style)
        table.add_row(Text(symbol, style=style), finding.topic, text)
    return table
