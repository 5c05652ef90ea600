"""``redflare up``."""

from __future__ import annotations

import signal
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Annotated, Final

import typer

from redflare_workers.up import DEFAULT_FOLDER
from redflare_workers.util.signals import Signalled, signals_to, stopping_signals

from . import display
from .connection import OptionalUrl
from .exit_codes import INTERRUPTED, TAKEN, exit_on_error, fail

if TYPE_CHECKING:
    from redflare_workers.up.events import Event

EXIT_CODES: Final = (
    "Exit codes: 0 stopped by SIGTERM, 1 a process cannot run, 2 wrong usage, also a function that is not one, "
    "3 Redis cannot be used, 4 another process has a name or the folder, 130 Ctrl-C."
)

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command(epilog=EXIT_CODES)
@exit_on_error()
def up(
    sites: Annotated[int, typer.Option("--sites", "-s", min=1, help="How many sites: site-1, site-2 ...")] = 2,
    agent: Annotated[
        str | None,
        typer.Option(
            "--agent",
            "-a",
            metavar="MODULE:FUNCTION",
            help="Function train(task) -> TaskResult, run by an agent at each site; default: no agents.",
        ),
    ] = None,
    agent_id: Annotated[
        str, typer.Option("--id", "-i", help="Name of the agents: agent_id in the meta of a job.")
    ] = "trainer",
    folder: Annotated[
        Path, typer.Option("--folder", "-f", help="Folder for data, workspaces and logs; made if there is none.")
    ] = Path(DEFAULT_FOLDER),
    port: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65535,
            help="Port of 127.0.0.1 for Redis, without a password; default: a socket that only you can open.",
        ),
    ] = None,
    url: OptionalUrl = None,
    as_json: display.Json = False,
) -> None:
    """Run a federation on this machine: Redis, server, sites and agents, for a first look and for development.

    Each is a process of its own, as on machines of their own: the same
    commands, workspaces and jobs. What dies is started again. When all are
    connected, it says how to go on. In the same folder, other commands find it
    without --url:

    [dim]redflare job submit my-job --wait[/dim]
    [dim]redflare status --watch[/dim]

    Ctrl-C ends all: agents, sites, the server, Redis. Started again in the
    same folder, it goes on: data are kept, and jobs that ran go on.

    Settings are in the workspaces, such as redflare-up/site-1/local/site.json;
    they are made once, and yours to edit. Logs are in redflare-up/logs.

    [bold]Examples[/bold]
    redflare up --sites 3 --agent trainer:train
    redflare up --agent trainer:train --folder /tmp/try --port 6390
    redflare up --sites 2            [dim]then run agents yourself, in a debugger[/dim]
    """
    events: SimpleQueue[Event] = SimpleQueue()
    with signals_to(lambda number: events.put(Signalled(number=number)), *stopping_signals()):
        # the help needs none of these
        from redflare_workers.up.plan import UpOptions, make_plan
        from redflare_workers.up.supervisor import LocalFederation, UpFailed
        from redflare_workers.workspace.workspace_lock import FolderTaken

        from .up_display import UpDisplay

        options = UpOptions(folder=folder, sites=sites, agent=agent, agent_id=agent_id, url=url, port=port)
        plan = make_plan(options)
        try:
            number = LocalFederation(plan, events, UpDisplay(plan, as_json=as_json).show).run()
        except FolderTaken as error:
            fail(str(error), TAKEN)
        except UpFailed as error:
            fail(str(error), error.code)
    if number == signal.SIGINT:
        raise typer.Exit(INTERRUPTED)
