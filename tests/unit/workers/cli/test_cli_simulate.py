"""``redflare simulate``: wrong usage is one line that says what to do; progress and results are shown."""

from __future__ import annotations

import re
from io import StringIO

import pytest
from redflare_workers.cli.app import app
from redflare_workers.cli.simulation_display import SimulationDisplay, report, to_json
from redflare_workers.simulator import Progress, SimulationOutcome
from redflare_workers.workflow import Controller, CrossSiteEval, Cyclic, FedAvg, FedBuff
from rich.console import Console
from typer.testing import CliRunner, Result

TRAINER = "tests.programs.simulated"


def run(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "80", "NO_COLOR": "1"}).invoke(app, ["simulate", *arguments])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "MODULE:TRAIN must be module:name"),
        (
            [f"{TRAINER}:initial_model"],
            "initial_model must be a function train(task) or train(task, site), but is a dict",
        ),
        (["os:getpid"], "os:getpid must be a function train(task) or train(task, site), but its signature is ()"),
        ([f"{TRAINER}:train", "--model", f"{TRAINER}:modle"], "--model: module"),
        (["redflare_agent.serve:answer"], "fedavg needs an initial model: give --model module:name"),
        (["redflare_agent.serve:answer", "-w", "cyclic"], "cyclic needs an initial model"),
        (
            [f"{TRAINER}:train", "--controller", f"{TRAINER}:train"],
            "--controller tests.programs.simulated:train() failed",
        ),
        ([f"{TRAINER}:train", "--controller", "os:getpid"], "must make a Controller, but made a int"),
        ([f"{TRAINER}:train", "--controller", "os:name"], "is a str, but must be a function"),
        ([f"{TRAINER}:train", "--controller", "os:getpid", "--model", "os:name"], "leave one of them out"),
        ([f"{TRAINER}:train", "--url", "nonsense://nowhere"], "nonsense"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_one_line(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert result.stderr.startswith("redflare: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--sites", "0"], ["--rounds", "0"], ["--processes", "-1"], ["--workflow", "x"]])
def test_options_out_of_range_are_exit_code_2(arguments: list[str]) -> None:
    result = run(f"{TRAINER}:train", *arguments)
    assert result.exit_code == 2
    assert arguments[0] in result.stderr


def test_the_help_shows_an_example_module_and_fits_eighty_columns() -> None:
    result = run("--help")
    assert result.exit_code == 0
    for word in ("initial_model", "def train(task):", "--workflow", "fedavg", "Exit codes"):
        assert word in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def outcome(
    controller: Controller, status: str = "FINISHED:COMPLETED", reason: str = ""
) -> SimulationOutcome[Controller]:
    return SimulationOutcome(
        status=status, reason=reason, controller=controller, seconds=2.0, sites=3, results=6, processes=2
    )


def printed(result: SimulationOutcome[Controller]) -> str:
    console = Console(file=StringIO(), width=80)
    report(result, console)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def fedavg(rounds: int = 2) -> FedAvg:
    made = FedAvg({"w": 1.0}, min_clients=1, num_rounds=rounds)
    made.history = [{"clients": {"site-1": 1.0}, "metric": 0.5 + n / 1000} for n in range(rounds)]
    made.current_round = rounds
    return made


def test_fedavg_is_reported_round_by_round() -> None:
    shown = printed(outcome(fedavg()))
    assert "accuracy of the received model" in shown
    assert "0.501" in shown
    assert "2 of 2" in shown
    assert "6, 3 per second" in shown


def test_a_metric_that_no_site_measures_has_no_column() -> None:
    workflow = fedavg()
    for done in workflow.history:
        done["metric"] = None
    shown = printed(outcome(workflow))
    assert "accuracy" not in shown
    assert re.search(r"^1 +1 *$", shown, re.MULTILINE)


def test_of_many_rounds_only_the_first_and_last_are_shown() -> None:
    lines = printed(outcome(fedavg(100))).splitlines()
    assert len(lines) < 35
    assert any(line.startswith("...") for line in lines)
    assert any(line.startswith("100 ") for line in lines)


def test_cyclic_is_reported_with_its_order_and_fedbuff_with_its_contributions() -> None:
    cyclic = Cyclic({"w": 1.0}, num_rounds=1)
    cyclic.history = [["site-2", "site-1"]]
    assert "site-2, site-1" in printed(outcome(cyclic))
    fedbuff = FedBuff({"w": 1.0}, buffer_size=1, num_updates=1)
    fedbuff.contributions = {"site-1": 17}
    assert "17" in printed(outcome(fedbuff))


@pytest.mark.parametrize(("sites", "column"), [(2, "site-2"), (50, "mean of the sites")])
def test_a_matrix_is_shown_by_site_or_if_it_is_too_wide_by_its_means(sites: int, column: str) -> None:
    names = [f"site-{n}" for n in range(1, sites + 1)]
    evaluation = CrossSiteEval()
    evaluation.results = {site: {"SRV_model": {"accuracy": 0.25}} for site in names}
    shown = printed(outcome(evaluation))
    assert column in shown
    assert "0.25" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_a_failure_is_reported_with_its_reason() -> None:
    shown = printed(outcome(fedavg(1), "FINISHED:EXECUTION_EXCEPTION", "too few [results] came"))
    assert "FINISHED:EXECUTION_EXCEPTION" in shown
    assert "too few [results] came" in shown


def test_the_result_is_converted_to_json() -> None:
    numbers = to_json(outcome(fedavg()))
    assert numbers["rounds"] == {"done": 2, "planned": 2}
    assert numbers["history"][1]["metric"] == 0.501
    assert (numbers["controller"], numbers["results"], numbers["reason"]) == ("FedAvg", 6, "")


def progress(done: int, joined: int = 3) -> Progress:
    return Progress(
        joined=joined, sites=3, rounds_done=done, rounds=2, results=3 * done, results_in_round=0, seconds=1.25
    )


def shown(*snapshots: Progress, terminal: bool, quiet: bool = False) -> str:
    console = Console(file=StringIO(), force_terminal=terminal, width=80, color_system=None)
    with SimulationDisplay(3, quiet=quiet, console=console) as display:
        for snapshot in snapshots:
            display.show(snapshot)
            if terminal and not quiet:
                display.refresh()
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_without_a_terminal_every_round_is_one_line() -> None:
    assert shown(progress(0), progress(1), progress(1), progress(2), terminal=False) == (
        "round 1 of 2: 3 results, 1.2 s\nround 2 of 2: 6 results, 1.2 s\n"
    )


def test_a_terminal_shows_joined_sites_and_the_round() -> None:
    live = shown(progress(0, joined=1), progress(1), terminal=True)
    assert "1 of 3 sites have joined" in live
    assert "round 2 of 2" in live


@pytest.mark.parametrize("terminal", [False, True])
def test_quiet_shows_nothing(terminal: bool) -> None:
    assert shown(progress(0), progress(1), terminal=terminal, quiet=True) == ""
