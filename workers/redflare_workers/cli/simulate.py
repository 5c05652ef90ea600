"""``redflare simulate``."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from redflare_broker.errors import ConfigError, RedflareError

from redflare_workers.util.object_reference import beside, named

from . import showing
from .connecting import USAGE, fail
from .workflow_names import Workflow

if TYPE_CHECKING:
    from redflare_workers.simulator import SimulationOutcome
    from redflare_workers.workflow import Controller

_FAILED: Final = 1
_UNAVAILABLE: Final = 3
_INTERRUPTED: Final = 130
EXIT_CODES: Final = (
    "Exit codes: 0 the workflow came to its end, 1 it failed or a site died, 2 wrong usage, 3 the server cannot be "
    "used, 130 Ctrl-C."
)


def simulate(
    train: Annotated[str, typer.Argument(metavar="MODULE:TRAIN", help="Function train(task, site) -> TaskResult.")],
    sites: Annotated[
        int, typer.Option("--sites", "-s", min=1, help="How many; they are called site-1, site-2 ...")
    ] = 4,
    rounds: Annotated[int, typer.Option("--rounds", "-r", min=1, help="Rounds; of fedbuff, versions.")] = 5,
    workflow: Annotated[Workflow, typer.Option("--workflow", "-w", help="Who trains when.")] = Workflow.FEDAVG,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:NAME",
            help="Model to begin with, or a function that makes it. Without it: initial_model in train's module.",
        ),
    ] = None,
    controller: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:NAME", help="Function that makes a controller of your own, instead of --workflow."
        ),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(
            "--processes",
            "-p",
            min=0,
            help="Processes for the sites; 0: threads of this one. Without it: one per core.",
        ),
    ] = None,
    url: Annotated[
        str | None, typer.Option("--url", "-u", help="Server to use; without it an embedded one is started.")
    ] = None,
    save: Annotated[Path | None, typer.Option("--save", help="Folder for the model, or for the matrix.")] = None,
    as_json: showing.Json = False,
) -> None:
    """Run a workflow with all its sites on this machine, by the code that runs distributed.

    Your module holds a function that is called for each task of each site,
    and the model to begin with:

    [dim]# trainer.py[/dim]
    [dim]import numpy as np[/dim]
    [dim]from redflare_agent import TaskResult[/dim]

    [dim]initial_model = {"w": np.zeros(3)}[/dim]

    [dim]def train(task, site):[/dim]
    [dim]    return TaskResult({}, {"w": task.data["w"] + 1})[/dim]

    task.data is the model, task.meta holds current_round, and the weights that
    you return count by NUM_STEPS_CURRENT_ROUND in your result's meta.

    [bold]Examples[/bold]
    redflare simulate trainer:train --sites 4 --rounds 3
    redflare simulate trainer:train --workflow cyclic --save out
    redflare simulate trainer:train --controller mine:controller
    redflare simulate redflare_workers.demo.digits:train --sites 100
    """
    try:
        function = _train(train)
        made = _controller(train, controller, workflow, model, sites=sites, rounds=rounds, save=save)
        outcome = _run(made, function, sites, processes, url, quiet=as_json)
    except ConfigError as error:
        fail(str(error), USAGE)
    except KeyboardInterrupt:
        typer.echo("stopped; every process has ended", err=True)
        raise typer.Exit(_INTERRUPTED) from None
    except RedflareError as error:
        from redflare_workers.simulator import SimulationError

        fail(str(error), _FAILED if isinstance(error, SimulationError) else _UNAVAILABLE)
    from .simulation_report import as_numbers, report

    if as_json:
        showing.print_json(as_numbers(outcome))
    else:
        report(outcome, showing.console())
    if not outcome.ok:
        raise typer.Exit(_FAILED)


def _train(reference: str) -> Any:
    function = named(reference, "MODULE:TRAIN")
    if not callable(function):
        raise ConfigError(f"{reference} is a {type(function).__name__}, but must be a function train(task, site)")
    try:
        inspect.signature(function).bind("task", "site")
    except TypeError as error:
        raise ConfigError(f"{reference} must take a task and the name of a site: train(task, site); {error}") from error
    except ValueError:
        pass  # it has no signature that could be looked at
    return function


def _controller(
    train: str,
    reference: str | None,
    workflow: Workflow,
    model: str | None,
    *,
    sites: int,
    rounds: int,
    save: Path | None,
) -> Controller:
    from redflare_workers.workflow import Controller

    from .workflows import make_workflow

    if reference is None:
        start = named(model, "--model") if model else beside(train, "initial_model")
        return make_workflow(workflow, start, sites=sites, rounds=rounds, save=save)
    if model is not None:
        raise ConfigError("--model belongs to --workflow; a --controller makes its model itself: leave one of them out")
    factory = named(reference, "--controller")
    made = factory if isinstance(factory, Controller) else _call(factory, reference)
    if not isinstance(made, Controller):
        raise ConfigError(f"--controller {reference} must make a Controller, but made a {type(made).__name__}")
    return made


def _call(factory: Any, reference: str) -> Any:
    if not callable(factory):
        raise ConfigError(f"--controller {reference} is a {type(factory).__name__}, but must be a function")
    try:
        return factory()
    except Exception as error:  # whatever the user's function raises
        raise ConfigError(f"--controller {reference}() failed: {type(error).__name__}: {error}") from error


def _run(
    controller: Controller, train: Any, sites: int, processes: int | None, url: str | None, *, quiet: bool
) -> SimulationOutcome[Controller]:
    from redflare_workers.simulator import simulate as run

    from .simulation_display import SimulationDisplay

    with SimulationDisplay(sites, quiet=quiet) as display:
        return run(controller, train, sites, processes=processes, url=url, on_progress=display.show)
