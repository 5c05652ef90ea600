"""``redflare simulate``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from redflare_broker.errors import ConfigError, RedflareError

from redflare_workers.util.object_reference import beside, named

from . import display
from .connection import OptionalUrl
from .exit_codes import FAILED, INTERRUPTED, UNAVAILABLE, USAGE, fail

if TYPE_CHECKING:
    from redflare_workers.workflow import Controller
    from redflare_workers.workflow.model_store import InitialModel

EXIT_CODES: Final = (
    "Exit codes: 0 the workflow completed, 1 it failed or a site died, 2 wrong usage, 3 Redis cannot be used, "
    "130 Ctrl-C."
)


class Workflow(StrEnum):
    """The values of ``--workflow``."""

    FEDAVG = "fedavg"
    CYCLIC = "cyclic"
    CROSS_SITE_EVAL = "cross-site-eval"
    FEDBUFF = "fedbuff"


app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command(epilog=EXIT_CODES)
def simulate(
    train: Annotated[str, typer.Argument(metavar="MODULE:TRAIN", help="Function train(task) -> TaskResult.")],
    sites: Annotated[int, typer.Option("--sites", "-s", min=1, help="How many sites: site-1, site-2 ...")] = 4,
    rounds: Annotated[int, typer.Option("--rounds", "-r", min=1, help="Rounds; for fedbuff, model versions.")] = 5,
    workflow: Annotated[Workflow, typer.Option("--workflow", "-w", help="The workflow to run.")] = Workflow.FEDAVG,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:NAME",
            help="Initial model, or a function that makes it; default: initial_model in the module of train.",
        ),
    ] = None,
    controller: Annotated[
        str | None,
        typer.Option(metavar="MODULE:NAME", help="Function that makes your own controller, instead of --workflow."),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(
            "--processes",
            "-p",
            min=0,
            help="Processes for the sites; 0: threads of this process; default: one per core.",
        ),
    ] = None,
    url: OptionalUrl = None,
    save: Annotated[Path | None, typer.Option("--save", help="Folder for the model or the results matrix.")] = None,
    as_json: display.Json = False,
) -> None:
    """Run a workflow with all its sites on this machine, with the same code as in a distributed run.

    Your module has a function that is called for each task of each site, and
    the initial model:

    [dim]# trainer.py[/dim]
    [dim]import numpy as np[/dim]
    [dim]from redflare_agent import TaskResult[/dim]

    [dim]initial_model = {"w": np.zeros(3)}[/dim]

    [dim]def train(task):[/dim]
    [dim]    return TaskResult({}, {"w": task.data["w"] + 1})[/dim]

    task.data is the model, task.site the name of the site, and task.meta has
    current_round. Results are weighted by NUM_STEPS_CURRENT_ROUND in their
    meta. redflare agent run runs the same module at a real site.

    [bold]Examples[/bold]
    redflare simulate trainer:train --sites 4 --rounds 3
    redflare simulate trainer:train --workflow cyclic --save out
    redflare simulate trainer:train --controller mine:controller
    redflare simulate redflare_workers.demo.digits:train --sites 100
    """
    try:
        function = _train(train)
        chosen = _controller(train, controller, workflow, model, sites=sites, rounds=rounds, save=save)
        from redflare_workers.simulator import simulate as run

        from .simulation_display import SimulationDisplay, report, to_json

        with SimulationDisplay(sites, quiet=as_json) as progress:
            outcome = run(chosen, function, sites, processes=processes, url=url, on_progress=progress.show)
    except ConfigError as error:
        fail(str(error), USAGE)
    except KeyboardInterrupt:
        typer.echo("stopped; every process has ended", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except RedflareError as error:
        from redflare_workers.simulator import SimulationError

        fail(str(error), FAILED if isinstance(error, SimulationError) else UNAVAILABLE)
    if as_json:
        display.print_json(to_json(outcome))
    else:
        report(outcome, display.console())
    if not outcome.ok:
        raise typer.Exit(FAILED)


def _train(reference: str) -> Any:
    from redflare_workers.simulator.site_agent import check_train

    function = named(reference, "MODULE:TRAIN")
    check_train(function, reference)
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

    if reference is None:
        start = named(model, "--model") if model else beside(train, "initial_model")
        return _make_workflow(workflow, start, sites=sites, rounds=rounds, save=save)
    if model is not None:
        raise ConfigError("--model belongs to --workflow, a --controller makes its own model: leave one of them out")
    controller: Any = named(reference, "--controller")
    if not isinstance(controller, Controller):
        if not callable(controller):
            raise ConfigError(f"--controller {reference} is a {type(controller).__name__}, but must be a function")
        try:
            controller = controller()
        except Exception as error:  # whatever the user's function raises
            raise ConfigError(f"--controller {reference}() failed: {type(error).__name__}: {error}") from error
    if not isinstance(controller, Controller):
        raise ConfigError(f"--controller {reference} must make a Controller, but made a {type(controller).__name__}")
    return controller


def _make_workflow(
    workflow: Workflow, model: InitialModel | None, *, sites: int, rounds: int, save: Path | None
) -> Controller:
    """Make the controller of a workflow; raise ConfigError if it needs an initial model and there is none."""
    # these import numpy, which the help of the command does not need
    from redflare_workers.workflow import CrossSiteEval, Cyclic, FedAvg, FedBuff

    if workflow is Workflow.CROSS_SITE_EVAL:
        models = {} if model is None else {"model": model}
        file = None if save is None else save / "cross_site_eval.json"
        return CrossSiteEval(server_models=models, min_clients=sites, result_file=file)
    if model is None:
        raise ConfigError(
            f"{workflow} needs an initial model: give --model module:name, or name it initial_model in train's module "
            "(a dict of arrays, or a function that makes one)"
        )
    match workflow:
        case Workflow.FEDAVG:
            return FedAvg(model, min_clients=sites, num_rounds=rounds, save_dir=save)
        case Workflow.CYCLIC:
            return Cyclic(model, min_clients=sites, num_rounds=rounds, save_dir=save)
        case Workflow.FEDBUFF:
            return FedBuff(model, buffer_size=max(1, sites // 2), num_updates=rounds, save_dir=save)
