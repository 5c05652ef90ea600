"""``redflare server``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from redflare_broker.config.settings import load_settings
from redflare_broker.keys import Keys

from . import display
from .connection import DEFAULT_URL
from .exit_codes import exit_on_error
from .service import EXIT_CODES, Check, Level, LogLevel, Secure, TakeOver, Url, Workspace, check, print_event, serve

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command(epilog=EXIT_CODES)
@exit_on_error()
def server(
    name: Annotated[
        str, typer.Option("--name", envvar="REDFLARE_SERVER", help="The server's name, for --server of sites and jobs.")
    ] = "server",
    url: Url = DEFAULT_URL,
    workspace: Workspace = Path("."),
    secure: Secure = False,
    max_jobs: Annotated[int, typer.Option(min=0, help="How many jobs may run at once; 0: no limit.")] = 0,
    take_over: TakeOver = False,
    log_level: LogLevel = Level.INFO,
    check_only: Check = False,
    as_json: display.Json = False,
) -> None:
    """Run the server of a federation: accept submitted jobs, run them on the sites, and record how each ends.

    A job waits until its sites are connected (`redflare job show` shows for
    which); then its workflow runs in a child process of this one. Each job has
    a folder in the workspace; a workspace is used by one process at a time.

    A server whose name is in use is refused, unless it is started with
    --take-over; the other one then ends.

    Stop it with Ctrl-C or SIGTERM, and start it again: jobs whose workflows
    can resume continue, others end with the reason. What jobs may do here is
    set in local/site.json of the workspace (docs/operate.md).

    [bold]Examples[/bold]
    redflare server --workspace /srv/redflare
    redflare server --url rediss://redis.example.org -w /srv/redflare --secure
    redflare server --check
    """
    settings = load_settings(workspace, secure)
    if check_only:
        keys = Keys(settings.namespace).cell(name)
        check(url, settings, name, keys.heartbeat, closed=(keys.cell, "closed"), as_json=as_json)
    # imports numpy, which the help does not need
    from redflare_workers.server.parent.server_parent import ServerParent

    parent = ServerParent(
        workspace,
        url,
        settings,
        name,
        max_jobs=max_jobs,
        secure_mode=secure,
        take_over=take_over,
    )
    parent.on_ready = lambda: print_event("ready", f"server {name} is accepting jobs", as_json=as_json)
    serve(f"server {name}", url, settings, parent.run, parent.stop, lambda: parent.fenced, log_level, as_json=as_json)
