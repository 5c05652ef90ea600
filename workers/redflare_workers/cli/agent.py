"""``redflare agent``: run."""

from __future__ import annotations

import signal
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import typer
from redflare_broker.config.settings import load_settings
from redflare_broker.errors import ConfigError
from redflare_broker.fqcn import agent_site_fqcn
from redflare_broker.keys import Keys
from redflare_broker.transport.url import ServerUrl

from redflare_workers.agent_run import AgentProcessArgs, AgentSupervisor, ProcessEvent
from redflare_workers.processes import ExitCode

from . import showing
from .connecting import UNAVAILABLE, USAGE, fail
from .running import Secure, Url, Workspace
from .serving import Check, check

_DIED: Final = 1
_ENDS: Final = {int(ExitCode.CONFIG): USAGE, int(ExitCode.INFRASTRUCTURE): UNAVAILABLE}
EXIT_CODES: Final = (
    "Exit codes: 0 it ended as it was told to, or with its job, 1 the trainer dies again and again or another agent "
    "has taken its place, 2 wrong usage, 3 the server cannot be used, 130 Ctrl-C."
)

app = typer.Typer(help="Agents: your training code, next to a site.", no_args_is_help=True, rich_markup_mode="rich")


@app.callback()
def options() -> None:
    """Agents: your training code, next to a site."""


@app.command("run", epilog=EXIT_CODES)
def run(
    function: Annotated[str, typer.Argument(metavar="MODULE:FUNCTION", help="Function train(task) -> TaskResult.")],
    site: Annotated[str, typer.Option("--site", "-s", envvar="REDFLARE_SITE", help="Name of the site.")],
    agent_id: Annotated[
        str, typer.Option("--id", "-i", envvar="REDFLARE_AGENT_ID", help="Name of the agent at its site.")
    ] = "trainer",
    job: Annotated[
        str | None, typer.Option("--job", help="Serve this job only, and end with it; without it: all jobs.")
    ] = None,
    url: Url = "redis://127.0.0.1:6379/0",
    workspace: Workspace = Path("."),
    secure: Secure = False,
    abort_grace: Annotated[
        float, typer.Option(min=0, help="Seconds that train has to return when its task is aborted.")
    ] = 10.0,
    stop_grace: Annotated[float, typer.Option(min=0, help="Seconds that it has when the agent is to stop.")] = 5.0,
    check_only: Check = False,
    as_json: showing.Json = False,
) -> None:
    """Make a function of yours the agent of a site, in a process that is watched.

    [dim]# trainer.py[/dim]
    [dim]from redflare_agent import TaskResult[/dim]

    [dim]def train(task):[/dim]
    [dim]    weights = {"w": task.data["w"] + 1}[/dim]
    [dim]    return TaskResult({"NUM_STEPS_CURRENT_ROUND": 100}, weights)[/dim]

    It serves one job after the other until Ctrl-C or SIGTERM. A process that
    dies is started again, and gets the task that it had in hand.

    When a job is aborted, task.aborted becomes true; a function that does not
    return within --abort-grace seconds ends with its process and all that it
    started, and a new one waits for the next task. The output of train goes
    where this command's goes. Settings come from the workspace's
    comm_config.json.

    [bold]Examples[/bold]
    redflare agent run trainer:train --site site-1
    redflare agent run trainer:train --site site-1 --id gpu-2 --job job-7
    redflare agent run trainer:train --site site-1 --check
    """
    try:
        fqcn = agent_site_fqcn(site, agent_id, job)
        ServerUrl.parse(url)
        settings = load_settings(workspace, secure)
    except ConfigError as error:
        fail(str(error), USAGE)
    if check_only:
        keys = Keys(settings.namespace).link(fqcn)
        check(url, settings, fqcn, keys.heartbeat("agent"), closed=(keys.link, "agent_closed"), as_json=as_json)
    order = AgentProcessArgs(
        train=function,
        url=url,
        site=site,
        agent_id=agent_id,
        workspace=str(workspace),
        secure=secure,
        job_id=job,
        abort_grace=abort_grace,
        stop_grace=stop_grace,
    )

    def tell(told: ProcessEvent) -> None:
        if as_json:
            showing.print_json(asdict(told), lines=True)
        else:
            typer.echo(f"redflare: process {told.pid} {told.event}: {told.text}", err=True)

    supervisor = AgentSupervisor(order, tell)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda got, _frame: supervisor.stop(got))
    code, stopped_by = supervisor.run()
    if stopped_by == signal.SIGINT:
        raise typer.Exit(130)
    if not stopped_by and code:
        raise typer.Exit(_ENDS.get(code, _DIED))
