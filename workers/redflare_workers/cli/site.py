"""``redflare site``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from redflare_broker.errors import ConfigError
from redflare_broker.keys import Keys

from . import showing
from .connecting import USAGE, fail
from .running import Secure, Url, Workspace
from .serving import Check, Level, LogLevel, check, serve, settings_of


def site(
    name: Annotated[str, typer.Argument(envvar="REDFLARE_SITE", help="The site's name.", show_default=False)],
    server: Annotated[
        str, typer.Option("--server", envvar="REDFLARE_SERVER", help="Name of the server that it serves.")
    ] = "server",
    url: Url = "redis://127.0.0.1:6379/0",
    workspace: Workspace = Path("."),
    secure: Secure = False,
    workers: Annotated[int, typer.Option(min=1, help="Requests of the server that are worked on at once.")] = 5,
    log_level: LogLevel = Level.INFO,
    check_only: Check = False,
    as_json: showing.Json = False,
) -> None:
    """Run a site: it takes part in the server's jobs, each in a process of its own under this one.

    The training is done by agents next to it (`redflare agent run`). What jobs
    may do here, the site says in local/site.json of its workspace:

    [dim]{[/dim]
    [dim]  "allow": ["mylib.executors.*"],[/dim]
    [dim]  "allow_custom": false,[/dim]
    [dim]  "resources": {"num_of_gpus": 2}[/dim]
    [dim]}[/dim]

    Without the file only redflare's own components run, and no code that a job
    brings. Stop it with Ctrl-C or SIGTERM; jobs that run go on when it is
    started again.

    [bold]Examples[/bold]
    redflare site site-1 --workspace /srv/site-1
    redflare site site-1 --url rediss://redis.example.org -w /srv/site-1 --secure
    redflare site site-1 --check
    """
    settings = settings_of(workspace, secure=secure)
    if check_only:
        keys = Keys(settings.namespace).cell(name)
        check(url, settings, name, keys.heartbeat, closed=(keys.cell, "closed"), as_json=as_json)
    # what follows imports numpy
    from redflare_workers.client.parent.client_engine import ClientEngine
    from redflare_workers.workspace.site_settings import Site, SiteArgs, load_site_settings

    try:
        client = Site(name=name, settings=load_site_settings(workspace))
        args = SiteArgs(workspace=workspace, redis_url=url, server_name=server, secure_mode=secure, settings=settings)
        engine = ClientEngine(client, args, workers=workers)
    except ConfigError as error:
        fail(str(error), USAGE)
    serve(f"site {name}", url, settings, engine.run, engine.stop, log_level, as_json=as_json)
