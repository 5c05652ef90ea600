"""``redflare site``."""

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
def site(
    name: Annotated[str, typer.Argument(envvar="REDFLARE_SITE", help="The site's name.", show_default=False)],
    server: Annotated[str, typer.Option("--server", envvar="REDFLARE_SERVER", help="Name of the server.")] = "server",
    url: Url = DEFAULT_URL,
    workspace: Workspace = Path("."),
    secure: Secure = False,
    workers: Annotated[int, typer.Option(min=1, help="How many requests of the server are handled at once.")] = 5,
    take_over: TakeOver = False,
    log_level: LogLevel = Level.INFO,
    check_only: Check = False,
    as_json: display.Json = False,
) -> None:
    """Run a site: take part in the server's jobs, each in a child process of this one.

    The training is done by agents (`redflare agent run`). What jobs may do
    here is set in local/site.json of the workspace:

    [dim]{[/dim]
    [dim]  "allow": ["mylib.executors.*"],[/dim]
    [dim]  "allow_custom": false,[/dim]
    [dim]  "resources": {"num_of_gpus": 2}[/dim]
    [dim]}[/dim]

    A path with * reaches components only; others need their whole name.
    Without this file only redflare's own components run, and no code from
    jobs. A site whose name is in use is refused, unless it is started with
    --take-over; the other one then ends. Stop the site with Ctrl-C or SIGTERM;
    its running jobs continue when it is started again.

    [bold]Examples[/bold]
    redflare site site-1 --workspace /srv/site-1
    redflare site site-1 --url rediss://redis.example.org -w /srv/site-1 --secure
    redflare site site-1 --check
    """
    settings = load_settings(workspace, secure)
    if check_only:
        keys = Keys(settings.namespace).cell(name)
        check(url, settings, name, keys.heartbeat, closed=(keys.cell, "closed"), as_json=as_json)
    # imports numpy, which the help does not need
    from redflare_workers.client.parent.client_engine import ClientEngine
    from redflare_workers.workspace.site_settings import Site, SiteArgs, load_site_settings

    client = Site(name=name, settings=load_site_settings(workspace))
    args = SiteArgs(
        workspace=workspace,
        redis_url=url,
        server_name=server,
        secure_mode=secure,
        settings=settings,
        take_over=take_over,
    )
    engine = ClientEngine(client, args, workers=workers)
    engine.on_ready = lambda: print_event("ready", f"site {name} has joined {server}", as_json=as_json)
    serve(f"site {name}", url, settings, engine.run, engine.stop, lambda: engine.fenced, log_level, as_json=as_json)
