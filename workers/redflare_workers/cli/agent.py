"""``redflare agent``: run."""

from __future__ import annotations

import signal
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import typer
from redflare_broker.config.settings import load_settings
from redflare_broker.fqcn import agent_site_fqcn
from redflare_broker.keys import Keys
from redflare_broker.transport.url import ServerUrl

from redflare_workers.agent_run import AgentProcessArgs, AgentSupervisor, ProcessEvent
from redflare_workers.processes import ExitCode
from redflare_workers.util.signals import stopping_signals

from . import display
from .connection import DEFAULT_URL
from .exit_codes import FAILED, INTERRUPTED, TAKEN, UNAVAILABLE, USAGE, exit_on_error
from .service import Check, Secure, TakeOver, Url, Workspace, check

_OF_PROCESS: Final = {
    int(ExitCode.CONFIG): USAGE,
    int(ExitCode.INFRASTRUCTURE): UNAVAILABLE,
    int(ExitCode.REPLACED): TAKEN,
}
EXIT_CODES: Final = (
    "Exit codes: 0 stopped as requested, or its job is over, 1 the trainer crashed repeatedly, 2 wrong usage, 3 Redis "
    "cannot be used, 4 another agent has its name, 130 Ctrl-C."
)

app = typer.Typer(
    add_completion=False, help="Run your training code at a site.", no_args_is_help=True, rich_markup_mode="rich"
)


@app.callback()
def options() -> None:
    """Run your training code at a site."""


@app.command("run", epilog=EXIT_CODES)
@exit_on_error()
def run(
    function: Annotated[str, typer.Argument(metavar="MODULE:FUNCTION", help="Function train(task) -> TaskResult.")],
    site: Annotated[str, typer.Option("--site", "-s", envvar="REDFLARE_SITE", help="Name of the site.")],
    agent_id: Annotated[
        str, typer.Option("--id", "-i", envvar="REDFLARE_AGENT_ID", help="Name of the agent at this site.")
    ] = "trainer",
    job: Annotated[
        str | None, typer.Option("--job", help="Serve only this job, and end with it; default: all jobs.")
    ] = None,
    url: Url = DEFAULT_URL,
    workspace: Workspace = Path("."),
    secure: Secure = False,
    abort_grace: Annotated[
        float, typer.Option(min=0, help="Seconds in which train must return when its task is aborted.")
    ] = 10.0,
    stop_grace: Annotated[
        float, typer.Option(min=0, help="Seconds in which train must return when the agent stops.")
    ] = 5.0,
    take_over: TakeOver = False,
    check_only: Check = False,
    as_json: display.Json = False,
) -> None:
    """Run your training function as the agent of a site, in a supervised process.

    [dim]# trainer.py[/dim]
    [dim]from redflare_agent import TaskResult[/dim]

    [dim]def train(task):[/dim]
    [dim]    weights = {"w": task.data["w"] + 1}[/dim]
    [dim]    return TaskResult({"NUM_STEPS_CURRENT_ROUND": 100}, weights)[/dim]

    task.site is the name of the site; a function train(task, site) gets it as
    well. redflare simulate runs the same module without sites.

    The agent serves one job after the other until Ctrl-C or SIGTERM. A process
    that dies is restarted, and gets its task again. After five crashes the
    command gives up, and answers the task with EXECUTION_EXCEPTION.

    When a job is aborted, task.aborted becomes true. If the function does not
    return within --abort-grace seconds, its process and all that it started
    are killed, and a new process waits for the next task. The output of train
    goes to the output of this command. Settings are read from comm_config.json
    in the workspace.

    [bold]Examples[/bold]
    redflare agent run trainer:train --site site-1
    redflare agent run trainer:train --site site-1 --id gpu-2 --job job-7
    redflare agent run trainer:train --site site-1 --check
    """
    fqcn = agent_site_fqcn(site, agent_id, job)
    ServerUrl.parse(url)
    settings = load_settings(workspace, secure)
    if check_only:
        keys = Keys(settings.namespace).link(fqcn)
        check(url, settings, fqcn, keys.heartbeat("agent"), closed=(keys.link, "agent_closed"), as_json=as_json)
    args = AgentProcessArgs(
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

    def print_event(event: ProcessEvent) -> None:
        if as_json:
            display.print_json(asdict(event), lines=True)
        else:
            display.say(f"redflare: process {event.pid} {event.event}: {event.text}", err=True)

    supervisor = AgentSupervisor(args, print_event, take_over=take_over)
    for number in stopping_signals():
        signal.signal(number, lambda received, _frame: supervisor.stop(received))
    code, stopped_by = supervisor.run()
    if stopped_by == signal.SIGINT:
        raise typer.Exit(INTERRUPTED)
    if not stopped_by and code != ExitCode.LEFT:
        raise typer.Exit(_OF_PROCESS.get(code, FAILED))
