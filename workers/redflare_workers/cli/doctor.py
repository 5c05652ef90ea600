"""``redflare doctor``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer
from rich.table import Table
from rich.text import Text

from . import showing
from .connecting import Target, connected
from .examination import CheckResult, Finding, examine

_UNFIT: Final = 1
EXIT_CODES: Final = (
    "Exit codes: 0 fit (there may be advice), 1 something must be changed, 2 wrong usage, 3 server unavailable or "
    "refusing the login, 130 Ctrl-C."
)
_MARKS: Final = {CheckResult.OK: ("✓", "green"), CheckResult.ADVICE: ("!", "yellow"), CheckResult.BAD: ("✗", "red")}


@connected
def doctor(
    target: Target,
    workspace: Annotated[
        Path | None,
        typer.Option(
            "--workspace",
            "-w",
            envvar="REDFLARE_WORKSPACE",
            help="Also check the settings of this workspace.",
            show_default=False,
        ),
    ] = None,
    as_json: showing.Json = False,
) -> None:
    """Is everything fit for jobs? Says what was found, and what to change.

    It looks at the server's version, persistence, eviction policy, memory and
    clock, at encryption and login, and tries every command that links, cells
    and jobs send with the rights of this user. It writes a few keys of its
    own, and removes them.

    [green]✓[/green]  fine
    [yellow]![/yellow]  works; think of it
    [red]✗[/red]  must be changed; the exit code is then 1

    [bold]Examples[/bold]
    redflare doctor
    redflare doctor --url rediss://redis.example.org --user site-1 \\
      --password-file redis.password --workspace /srv/site-1
    redflare doctor --json | jq -r '.findings[] | select(.verdict == "bad") | .remedy'
    """
    findings = list(examine(target.server, target.namespace, target.url, workspace))
    fit = all(finding.verdict is not CheckResult.BAD for finding in findings)
    if as_json:
        found = [finding.to_json() for finding in findings]
        showing.print_json({"url": target.server.url, "fit": fit, "findings": found})
    else:
        showing.console().print(_picture(findings))
    if not fit:
        raise typer.Exit(_UNFIT)


def _picture(findings: list[Finding]) -> Table:
    picture = Table.grid(padding=(0, 2))
    picture.add_column(no_wrap=True)
    picture.add_column(no_wrap=True)
    picture.add_column(overflow="fold")
    for finding in findings:
        mark, style = _MARKS[finding.verdict]
        said = Text(finding.text)
        if finding.remedy:
            said.append(f"\n{finding.remedy}", style=style)
        picture.add_row(Text(mark, style=style), finding.topic, said)
    return picture
