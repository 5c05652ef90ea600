"""NVFlare's own FedAvg over two sites whose trainers are processes on our agent, without NVFlare in them.

All jobs run at once: they wait for NVFlare's timers more than they work.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests.inside_nvflare.jobs import (
    CLIPPING,
    ROUNDS,
    SITES,
    FedAvgJob,
    blocks,
    in_process,
    ipc_exchanger,
    redis_exchanger,
)
from tests.inside_nvflare.programs import Program, nvflare_trainer, trainer
from tests.inside_nvflare.system import FlareSystem, final_model, simulator
from tests.support.redis_server.kinds import embedded
from tests.support.redis_server.node import Node
from tests.support.waiting import wait_until

pytestmark = pytest.mark.serial

MB = 1_000_000
BIG_ROUNDS = 2

Model = npt.NDArray[np.float32]


def big_model() -> Model:
    """100 MB of small numbers."""
    return np.resize(np.arange(1000, dtype=np.float32), 100 * MB // 4)


@dataclass(slots=True)
class Running:
    """What the tests share: a server of ours, a system of NVFlare's, and everything that runs on them."""

    redis: Node
    system: FlareSystem
    folder: Path
    stack: ExitStack

    def job(self, name: str, job: FedAvgJob) -> str:
        return self.system.submit(job, name)

    def trainers(self, name: str, script: str, *more: str) -> dict[str, Program]:
        """One trainer per site on our agent called ``name``."""
        return {site: self.trainer(name, script, site, *more) for site in SITES}

    def client_api_trainers(self, name: str, argument: str) -> dict[str, Program]:
        """Start trainers that read the link from a file."""
        return {
            site: self.stack.enter_context(trainer("client_api.py", self.folder / name / site, argument))
            for site in SITES
        }

    def trainer(self, name: str, script: str, site: str, *more: str) -> Program:
        folder = self.folder / name / site
        return self.stack.enter_context(trainer(script, folder, self.redis.url, site, name, str(folder), *more))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("nvflare")
    with embedded() as redis, FlareSystem(folder / "system") as system, ExitStack() as stack:
        yield Running(redis, system, folder, stack)


@dataclass(frozen=True, slots=True)
class SubmittedJob:
    """A job of the system with its trainers."""

    job_id: str
    trainers: dict[str, Program]


@pytest.fixture(scope="module")
def in_process_jobs(running: Running) -> dict[str, str]:
    """The reference: the same training in the client jobs' processes; of weights, and of differences."""
    custom = ("client_api.py", "learning.py")
    full = FedAvgJob(executor=in_process("client_api.py", "FULL"), custom=custom)
    diff = FedAvgJob(executor=in_process("client_api.py", "DIFF"), custom=custom, result_filters=[CLIPPING])
    return {"FULL": running.job("in-process-full", full), "DIFF": running.job("in-process-diff", diff)}


@pytest.fixture(scope="module")
def client_api_job(running: Running) -> SubmittedJob:
    """The script moved by its import; the link is named in the files of the site and of the trainer."""
    at_site, at_trainer = (json.loads(block) for block in blocks("json")[1:])
    for site in SITES:
        local = running.system.kits / site / "local" / "redflare"
        local.mkdir()
        (local / "redflare.json").write_text(json.dumps(at_site | {"redis_url": running.redis.url}))
        folder = running.folder / "client-api" / site
        folder.mkdir(parents=True)
        names = {"redis_url": running.redis.url, "site_name": site, "agent_id": "client-api"}
        (folder / "redflare.json").write_text(json.dumps(at_trainer | names))
    job = FedAvgJob(executor=redis_exchanger("", "client-api"), result_filters=[CLIPPING])
    return SubmittedJob(running.job("client-api", job), running.client_api_trainers("client-api", "DIFF"))


@pytest.fixture(scope="module")
def ipc_job(running: Running) -> SubmittedJob:
    """NVFlare's own executor and agent."""
    job_id = running.job("ipc", FedAvgJob(executor=ipc_exchanger("ipc")))
    trainers = {}
    for site in SITES:
        folder = running.folder / "ipc" / site
        args = (running.system.listener(site), site, "ipc", str(folder))
        trainers[site] = running.stack.enter_context(nvflare_trainer("ipc_agent.py", folder, *args))
    return SubmittedJob(job_id, trainers)


@pytest.fixture(scope="module")
def killed_job(running: Running) -> SubmittedJob:
    job_id = running.job("killed", FedAvgJob(executor=redis_exchanger(running.redis.url, "killed")))
    waiting, other = SITES
    trainers = {
        waiting: running.trainer("killed", "ipc_agent.py", waiting, "3"),
        other: running.trainer("killed", "ipc_agent.py", other),
    }
    return SubmittedJob(job_id, trainers)


@pytest.fixture(scope="module")
def big_job(running: Running) -> SubmittedJob:
    initial = running.folder / "initial.npy"
    np.save(initial, big_model())
    job = FedAvgJob(executor=redis_exchanger(running.redis.url, "big"), rounds=BIG_ROUNDS, initial=str(initial))
    return SubmittedJob(running.job("big", job), running.trainers("big", "adding.py"))


@pytest.fixture(scope="module")
def lonely_job(running: Running) -> str:
    """A job whose trainers are not started."""
    executor = redis_exchanger(running.redis.url, "nobody", agent_heartbeat_timeout=2.0)
    return running.job("lonely", FedAvgJob(executor=executor))


@pytest.fixture(scope="module")
def simulated(running: Running) -> Iterator[tuple[Program, Path]]:
    job = FedAvgJob(executor=redis_exchanger(running.redis.url, "simulated"))
    folder = running.folder / "simulated"
    folder.mkdir()
    running.trainers("simulated", "ipc_agent.py")
    with simulator(job, folder) as program:
        yield program, folder


@pytest.fixture(scope="module", autouse=True)
def _all_at_once(
    in_process_jobs: dict[str, str],
    client_api_job: SubmittedJob,
    ipc_job: SubmittedJob,
    killed_job: SubmittedJob,
    big_job: SubmittedJob,
    lonely_job: str,
    simulated: tuple[Program, Path],
) -> None:
    """Start everything before the first test."""


@pytest.fixture(scope="module")
def model(running: Running, in_process_jobs: dict[str, str]) -> Model:
    """The model after five rounds of training in process."""
    return running.system.result(in_process_jobs["FULL"])


def test_nvflares_own_link_gives_the_same_model_so_the_trainer_is_the_same(
    running: Running, ipc_job: SubmittedJob, model: Model
) -> None:
    np.testing.assert_array_equal(running.system.result(ipc_job.job_id), model)


def test_a_trainer_killed_in_round_3_and_started_again_changes_nothing(
    running: Running, killed_job: SubmittedJob, model: Model
) -> None:
    victim = killed_job.trainers["site-1"]
    victim.wait_output("train 3 5 WEIGHTS")
    victim.kill()
    running.trainer("killed", "ipc_agent.py", "site-1")
    np.testing.assert_array_equal(running.system.result(killed_job.job_id), model)


def test_a_script_of_the_client_api_moves_by_its_import(
    running: Running, in_process_jobs: dict[str, str], client_api_job: SubmittedJob
) -> None:
    clipped = running.system.result(in_process_jobs["DIFF"])
    np.testing.assert_array_equal(running.system.result(client_api_job.job_id), clipped)
    for site, program in client_api_job.trainers.items():
        assert program.wait() == 0
        assert program.output()[:2] == [f"train {site} 0 {ROUNDS}", f"train {site} 1 {ROUNDS}"]


def test_the_simulator_gives_the_same_model(simulated: tuple[Program, Path], model: Model) -> None:
    program, folder = simulated
    assert program.wait(120) == 0, program.tail()
    np.testing.assert_array_equal(final_model(folder / "ws"), model)


def test_a_model_of_100_mb_is_averaged(running: Running, big_job: SubmittedJob) -> None:
    model = running.system.result(big_job.job_id)
    np.testing.assert_array_equal(model, big_model() + BIG_ROUNDS)
    for program in big_job.trainers.values():
        assert program.wait() == 0
        assert program.output()[-1] == f"accepted {BIG_ROUNDS}"


def test_a_dead_agent_makes_its_client_job_panic_and_end(running: Running, lonely_job: str) -> None:
    log = running.system.kits / SITES[0] / lonely_job / "log.txt"
    reason = "due to FATAL_SYSTEM_ERROR: agent site-1--nobody is gone: no heartbeat for"
    # NVFlare decides on the outcome of the whole job, a minute later
    wait_until(lambda: log.is_file() and reason in log.read_text(), 60, f"{reason!r} in {log}")
    wait_until(lambda: "END_RUN fired" in log.read_text(), 30, f"END_RUN in {log}")


def test_a_job_aborted_in_round_2_aborts_its_tasks_and_closes_its_agents(running: Running) -> None:
    executor = redis_exchanger(running.redis.url, "aborted")
    job_id = running.job("aborted", FedAvgJob(executor=executor))
    trainers = running.trainers("aborted", "ipc_agent.py", "2")
    for program in trainers.values():
        program.wait_output("train 2 5 WEIGHTS")
    running.system.ask("abort", job_id)
    for program in trainers.values():
        program.wait_output("aborted")
        assert program.wait() == 0
        assert program.output()[-2:] == ["accepted False", "closed"]
    assert running.system.wait_finished(job_id) == "FINISHED:ABORTED"


def test_a_trainer_outlives_a_client_job_that_was_killed_and_serves_the_next_job(running: Running) -> None:
    executor = redis_exchanger(running.redis.url, "outliving")
    first = running.job("killed-client-job", FedAvgJob(executor=executor))
    trainers = running.trainers("outliving", "ipc_agent.py", "2")
    outliving, other = (trainers[site] for site in SITES)
    for program in trainers.values():
        program.wait_output("train 2 5 WEIGHTS")
    running.system.kill_client_job(SITES[0], first)
    running.system.ask("abort", first)
    assert other.wait() == 0
    running.system.wait_finished(first)

    second = running.job("next", FedAvgJob(executor=executor, rounds=2))
    running.trainer("outliving", "ipc_agent.py", SITES[1])
    running.system.result(second)
    assert outliving.wait() == 0
    output = outliving.output()
    assert output[output.index("aborted") :] == [
        "aborted",
        "accepted False",
        "train 0 2 WEIGHTS",
        "accepted True",
        "train 1 2 WEIGHTS",
        "accepted True",
        "closed",
    ]
