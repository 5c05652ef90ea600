"""``simulate()`` and ``redflare simulate`` as users run them: sites in processes, deaths, interrupts, what is left."""

from __future__ import annotations

import json
import os
import signal
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from redflare_broker.transport.server import Server
from redflare_workers.demo import digits
from redflare_workers.simulator import Progress, SimulationError, SimulationOutcome, simulate
from redflare_workers.workflow import FedAvg, load_model

from tests.programs import simulated
from tests.support.paths import ROOT
from tests.support.process.marked import MarkedProgram, marked
from tests.support.waiting import wait_until

REDFLARE = Path(sys.executable).parent / "redflare"
TRAINER = "tests.programs.simulated"


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    threads = set(threading.enumerate())
    children = set(psutil.Process().children())
    yield
    wait_until(lambda: set(threading.enumerate()) <= threads, timeout=20, what="the end of all threads")
    assert set(psutil.Process().children()) <= children


def run(train: Any, sites: int = 2, rounds: int = 3, **options: Any) -> SimulationOutcome[FedAvg]:
    controller = FedAvg(
        dict(simulated.initial_model), min_clients=sites, num_rounds=rounds, wait_time_after_min_received=0
    )
    return simulate(controller, train, sites=sites, **options)


def redflare(*arguments: str) -> list[str | Path]:
    return [REDFLARE, "simulate", *arguments]


def test_a_hundred_sites_in_two_processes_learn_the_digits() -> None:
    controller = FedAvg(
        digits.initial_model,
        min_clients=100,
        num_rounds=3,
        wait_time_after_min_received=0,
        evaluate=digits.evaluate,
    )
    outcome = simulate(controller, digits.train, sites=100, processes=2)
    assert outcome.ok
    assert (outcome.results, outcome.processes) == (300, 2)
    assert [len(done["clients"]) for done in controller.history] == [100] * 3
    assert controller.history[-1]["metric"] > 0.85


def test_the_model_does_not_depend_on_how_the_sites_are_divided() -> None:
    models = [run(simulated.by_name, sites=4, processes=processes).controller.model["w"] for processes in (0, 1, 3)]
    assert [model.tolist() for model in models] == [[7.5] * 3] * 3


def test_a_server_that_is_given_is_used_and_stays(server_url: str) -> None:
    assert run(simulated.train, processes=1, url=server_url, job_id="given-server").ok
    with Server.connect(server_url) as server:
        ended = server.run("", lambda connection: connection.call("HGET", "flare:{server.given-server}:job", "status"))
    assert ended == b"FINISHED:COMPLETED"


def test_a_process_that_is_killed_ends_the_simulation_and_is_named() -> None:
    with pytest.raises(SimulationError, match=r"^the process with site-2 \(pid \d+\) was killed by SIGKILL$"):
        run(simulated.killing, processes=2)


def test_a_process_that_exits_early_with_code_0_is_noticed() -> None:
    with pytest.raises(SimulationError, match=r"the process with site-2 .* ended with exit code 0"):
        run(simulated.vanishing, processes=2)


def test_a_function_that_ends_its_thread_is_named_with_its_last_output(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(
        SimulationError, match=r"the process with site-1 to site-2 .* failed: site-2: KeyboardInterrupt: enough"
    ):
        run(simulated.leaving, processes=1)
    assert "in leaving" in capfd.readouterr().err, "what processes print is shown"


def test_an_embedded_server_that_is_killed_ends_the_simulation() -> None:
    others = set(psutil.Process().children(recursive=True))

    def kill_server(progress: Progress) -> None:
        for child in set(psutil.Process().children(recursive=True)) - others:
            if "valkey" in child.name():
                child.kill()

    with pytest.raises(SimulationError, match="the embedded server has ended"):
        run(simulated.train, rounds=1_000_000, processes=1, on_progress=kill_server)


SCRIPT = """
import sys
import numpy as np
from redflare_agent import TaskResult
from redflare_workers.simulator import simulate
from redflare_workers.workflow import FedAvg

def train(task, site):
    return TaskResult({}, {"w": task.data["w"] + 1})

def main(processes):
    fedavg = FedAvg({"w": np.zeros(2)}, min_clients=2, num_rounds=2, wait_time_after_min_received=0)
    outcome = simulate(fedavg, train, sites=2, processes=processes)
    print(outcome.status, outcome.controller.model["w"].tolist())
"""


def script(folder: Path, end: str) -> list[str | Path]:
    path = folder / "script.py"
    path.write_text(SCRIPT + textwrap.dedent(end))
    return [sys.executable, path]


def test_a_function_of_the_main_program_works(tmp_path: Path) -> None:
    with marked(script(tmp_path, 'if __name__ == "__main__":\n    main(2)'), tmp_path) as program:
        assert program.finish() == (0, "FINISHED:COMPLETED [2.0, 2.0]\n", "")
        assert program.left_behind() == []


def test_a_main_program_that_simulates_when_it_is_imported_is_refused(tmp_path: Path) -> None:
    with marked(script(tmp_path, "main(2)"), tmp_path) as program:
        code, _, errors = program.finish()
        assert code == 1
        assert 'call it below `if __name__ == "__main__":`' in errors.splitlines()[-1]
        assert program.left_behind() == []


@pytest.mark.parametrize(("processes", "code"), [(0, 0), (2, 1)])
def test_a_function_of_a_prompt_needs_threads(tmp_path: Path, processes: int, code: int) -> None:
    with marked([sys.executable, "-"], tmp_path, given=f"{SCRIPT}\nmain({processes})\n") as program:
        ended, output, errors = program.finish()
        assert ended == code
        assert output == ("" if code else "FINISHED:COMPLETED [2.0, 2.0]\n")
        assert ("processes=0" in errors) is bool(code)
        assert program.left_behind() == []


def wait_for_tasks(program: MarkedProgram) -> None:
    """Wait until both sites execute a task."""
    for _ in range(2):
        program.read_until("works")


@pytest.mark.parametrize("group", [False, True], ids=["to-the-process", "to-its-group"])
@pytest.mark.parametrize(("function", "processes"), [("patient", "0"), ("patient", "2"), ("endless", "2")])
def test_ctrl_c_ends_everything_within_seconds(tmp_path: Path, function: str, processes: str, group: bool) -> None:
    command = redflare(f"{TRAINER}:{function}", "--sites", "2", "--processes", processes)
    with marked(command, ROOT, scratch=tmp_path / "scratch") as program:
        if processes == "0":
            assert program.process.stdout is not None
            program.process.stdout.readline()
        else:
            wait_for_tasks(program)
        (os.killpg if group else os.kill)(program.process.pid, signal.SIGINT)
        code, _, errors = program.finish(15)
        assert code == 130
        assert "stopped; every process has ended\n" in errors
        assert "Traceback" not in errors
        assert program.left_behind() == []


def test_a_second_ctrl_c_does_not_interrupt_the_shutdown(tmp_path: Path) -> None:
    with marked(redflare(f"{TRAINER}:endless", "--sites", "2"), ROOT, scratch=tmp_path / "scratch") as program:
        wait_for_tasks(program)
        for _ in range(3):
            program.process.send_signal(signal.SIGINT)
        assert program.finish(15)[0] == 130
        assert program.left_behind() == []


def test_killing_the_simulation_leaves_nothing_behind(tmp_path: Path) -> None:
    with marked(redflare(f"{TRAINER}:patient", "--sites", "2"), ROOT, scratch=tmp_path / "scratch") as program:
        wait_for_tasks(program)
        program.process.kill()
        wait_until(lambda: program.left_behind() == [], timeout=20)


@pytest.mark.parametrize("workflow", ["fedavg", "cyclic", "fedbuff", "cross-site-eval"])
def test_the_command_runs_every_workflow_and_prints_json_for_programs(tmp_path: Path, workflow: str) -> None:
    arguments = ("--sites", "3", "--rounds", "2", "--workflow", workflow, "--save", str(tmp_path / "out"), "--json")
    with marked(redflare("redflare_workers.demo.digits:train", *arguments), tmp_path) as program:
        code, output, _ = program.finish()
        assert code == 0
        assert program.left_behind() == []
    numbers = json.loads(output)
    assert (numbers["status"], numbers["sites"]) == ("FINISHED:COMPLETED", 3)
    if workflow == "cross-site-eval":
        matrix = json.loads((tmp_path / "out" / "cross_site_eval.json").read_text())
        assert matrix == numbers["matrix"]
        assert sorted(matrix["site-1"]) == ["SRV_model", "site-1", "site-2", "site-3"]
    else:
        assert numbers["rounds"] == {"done": 2, "planned": 2}
        model, _ = load_model(tmp_path / "out" / "FL_global_model.npz")
        assert digits.evaluate(model) > digits.evaluate(digits.initial_model())


def test_the_command_finds_a_module_of_the_current_folder_and_shows_rounds_and_result(tmp_path: Path) -> None:
    (tmp_path / "trainer.py").write_text(f"from {TRAINER} import *\n")
    with marked(redflare("trainer:train", "-s", "2", "-r", "3", "-p", "1"), tmp_path, path=ROOT) as program:
        code, output, errors = program.finish()
    assert code == 0
    assert [line.partition(":")[0] for line in errors.splitlines()] == [f"round {n} of 3" for n in (1, 2, 3)]
    assert "FINISHED:COMPLETED" in output
    assert "2, in one process" in output
    assert "3 of 3" in output


def test_a_workflow_that_fails_is_exit_code_1_with_the_reason(tmp_path: Path) -> None:
    arguments = (f"{TRAINER}:failing", "--sites", "2", "--rounds", "1")
    with marked(redflare(*arguments), ROOT, scratch=tmp_path / "scratch") as program:
        code, output, errors = program.finish()
    assert code == 1
    assert "min_clients is 2" in " ".join(output.split())
    assert "ValueError: there is no data here" in errors


def test_a_dead_process_is_exit_code_1_and_one_line(tmp_path: Path) -> None:
    with marked(redflare(f"{TRAINER}:killing", "--sites", "2"), ROOT, scratch=tmp_path / "scratch") as program:
        code, _, errors = program.finish()
    assert code == 1
    assert errors.splitlines()[-1].startswith("redflare: the process with site-2")


def test_a_server_that_is_not_there_is_exit_code_3(tmp_path: Path) -> None:
    arguments = (f"{TRAINER}:train", "--sites", "2", "--url", "redis://127.0.0.1:1/0")
    with marked(redflare(*arguments), ROOT, scratch=tmp_path / "scratch") as program:
        code, _, errors = program.finish()
        assert program.left_behind() == []
    assert code == 3
    assert "127.0.0.1:1" in errors
    assert "Traceback" not in errors


def test_numbers_equal_those_of_numpy() -> None:
    model = run(simulated.by_name, sites=3, rounds=1, processes=2).controller.model["w"]
    np.testing.assert_array_equal(model, np.mean([1, 2, 3]) * np.ones(3, np.float32))
