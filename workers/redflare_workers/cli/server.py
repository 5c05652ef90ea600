"""``redflare server``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from redflare_broker.errors import ConfigError
from redflare_broker.keys import Keys

from . import showing
from .connecting import USAGE, fail
from .running import Secure, Url, Workspace
from .serving import Check, Level, LogLevel, check, serve, settings_of, tell


def server(
    name: Annotated[
        str, typer.Option("--name", envvar="REDFLARE_SERVER", help="Sites and jobs name it by --server.")
    ] = "server",
    url: Url = "redis://127.0.0.1:6379/0",
    workspace: Workspace = Path("."),
    secure: Secure = False,
    max_jobs: Annotated[int, typer.Option(min=0, help="How many jobs may run at once; 0: any number.")] = 0,
    log_level: LogLevel = Level.INFO,
    check_only: Check = False,
    as_json: showing.Json = False,
) -> None:
    """Run the server of a federation: it takes submitted jobs, gives them to the sites, and sees each to its end.

    A job waits until its sites are there (`redflare job show` says for what),
    then its workflow runs in a process of its own under this one. Each job has
    its folder in the workspace; one process serves a workspace at a time.

    Stop it with Ctrl-C or SIGTERM, and start it again: jobs whose workflows
    can resume go on, others end and say so. The workspace's
    local/site.json says what jobs may do here (docs/operate.md).

    [bold]Examples[/bold]
    redflare server --workspace /srv/redflare
    redflare server --url rediss://redis.example.org -w /srv/redflare --secure
    redflare server --check
    """
    settings = settings_of(workspace, secure=secure)
    if check_only:
        keys = Keys(settings.namespace).cell(name)
        check(url, settings, name, keys.heartbeat, closed=(keys.cell, "closed"), as_json=as_json)
    # what follows imports numpy
    from redflare_workers.server.parent.server_parent import ServerParent

    try:
        parent = ServerParent(
            workspace, url, settings, name, policy=settings.job_store, max_jobs=max_jobs, secure_mode=secure
        )
    except ConfigError as error:
        fail(str(error), USAGE)
    parent.on_ready = lambda: tell(as_json, "ready", f"server {name} takes jobs")
    serve(f"server {name}", url, settings, parent.run, parent.stop, log_level, as_json=as_json)
