"""Real NVFlare on this machine: its simulator, and a provisioned system of a server and two sites with certificates."""

from __future__ import annotations

import json
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import psutil

from tests.benchmarks.harness import Child
from tests.inside_nvflare.admin import Admin
from tests.inside_nvflare.jobs import SITES, FedAvgJob, blocks
from tests.inside_nvflare.programs import Program
from tests.support.redis_server.node import free_port
from tests.support.waiting import wait_until

ADMIN: Final = "admin@nvidia.com"
#: What a site's administrator adds to ``class_allow_list``; NVFlare's own is not on it either.
ALLOWED: Final = (*map(json.loads, blocks("text")[1:]), "nvflare.app_common.executors.ipc_exchanger.IPCExchanger")
_JOBS_AT_ONCE: Final = 8
#: Where NVFlare's servers keep jobs and snapshots by default.
_SHARED_STORE: Final = "/tmp/nvflare"
#: Seconds for each action of NVFlare.
PATIENCE: Final = 120.0


def final_model(folder: Path) -> npt.NDArray[np.float32]:
    """Load the model that a job's server has saved below ``folder``."""
    (path,) = folder.rglob("server.npy")
    return np.load(path)  # type: ignore[no-any-return]


def simulator(job: FedAvgJob, folder: Path) -> Program:
    """NVFlare's simulator with one process per site; ``folder`` gets the job, and in ``ws`` what comes of it."""
    job_folder = job.write(folder / "job")
    local = folder / "ws" / "local"  # the simulator gives every site a copy
    local.mkdir(parents=True)
    (local / "resources.json").write_text(json.dumps({"class_allow_list": ["nvflare.", *ALLOWED]}))
    command = [sys.executable, "-m", "nvflare.private.fed.app.simulator.simulator", str(job_folder)]
    sites = str(len(SITES))
    return Program(
        [*command, "-w", str(folder / "ws"), "-n", sites, "-t", sites], folder / "simulator.log", folder, _env(folder)
    )


def _env(home: Path) -> dict[str, str]:
    """An environment in which NVFlare keeps its notes in ``home``."""
    return {**os.environ, "HOME": str(home)}


class FlareSystem:
    """A server and two sites, each in a process of its own, with TLS between them as ``nvflare provision`` makes it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._programs: dict[str, Program] = {}
        self._admin: Child | None = None

    @property
    def kits(self) -> Path:
        """Folder of the startup kits."""
        return self._folder / "ws" / "tests" / "prod_00"

    def ask(self, method: str, *args: object) -> Any:
        """Call a method of ``Admin`` as the administrator."""
        assert self._admin is not None
        return self._admin.call(method, *args)

    def submit(self, job: FedAvgJob, name: str) -> str:
        """Submit a job; return its id."""
        return str(self.ask("submit", str(job.write(self._folder / "jobs" / name))))

    def wait_finished(self, job_id: str) -> str:
        """Wait for the end of a job; return its status."""
        return wait_until(
            lambda: status if (status := str(self.ask("status", job_id))).startswith("FINISHED") else "",
            PATIENCE,
            f"the end of job {job_id}",
        )

    def result(self, job_id: str) -> npt.NDArray[np.float32]:
        """Wait for a job to complete; return its final model."""
        status = self.wait_finished(job_id)
        assert status == "FINISHED:COMPLETED", f"{status}\n{self.tails()}"
        return final_model(Path(self.ask("download", job_id)))

    def listener(self, site: str) -> str:
        """URL of a site's client parent for processes of the site: what NVFlare's own IPCAgent connects to."""
        logged = self._programs[site].wait_output("created backbone internal listener for")
        return logged.rpartition(" ")[2]

    def kill_client_job(self, site: str, job_id: str) -> None:
        """SIGKILL for a site's process of a job."""
        processes = psutil.Process(self._programs[site].pid).children(recursive=True)
        (client_job,) = (process for process in processes if job_id in process.cmdline())
        client_job.kill()

    def tails(self) -> str:
        return "\n".join(f"-- {name}\n{program.tail()}" for name, program in self._programs.items())

    # -- life ----------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        with self._stack:
            self._provision()
            self._start("server", "server.server_train", "fed_server.json")
            for site in SITES:
                self._start(site, "client.client_train", "fed_client.json", f"uid={site}")
            self._programs["server"].wait_output("Server started")
            self._admin = self._stack.enter_context(Child(Admin, ADMIN, str(self.kits / ADMIN), PATIENCE))
            wait_until(lambda: self.ask("sites") == len(SITES), PATIENCE, "all sites")
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _provision(self) -> None:
        project = {
            "api_version": 3,
            "name": "tests",
            "participants": [
                {
                    "name": "server",
                    "type": "server",
                    "org": "tests",
                    "default_host": "localhost",
                    "fed_learn_port": free_port(),
                },
                {"name": ADMIN, "type": "admin", "org": "tests", "role": "project_admin"},
                *({"name": site, "type": "client", "org": "tests"} for site in SITES),
            ],
            "builders": [
                {
                    "path": "nvflare.lighter.impl.workspace.WorkspaceBuilder",
                    "args": {"template_file": ["master_template.yml"]},
                },
                {
                    "path": "nvflare.lighter.impl.static_file.StaticFileBuilder",
                    "args": {"config_folder": "config"},
                },
                {"path": "nvflare.lighter.impl.cert.CertBuilder"},
                {"path": "nvflare.lighter.impl.signature.SignatureBuilder"},
            ],
        }
        self._folder.mkdir(parents=True, exist_ok=True)
        file = self._folder / "project.yml"
        file.write_text(json.dumps(project))  # which is YAML too
        command = [sys.executable, "-m", "nvflare.cli", "provision", "-p", str(file), "-w", str(self._folder / "ws")]
        with Program(command, self._folder / "provision.log", self._folder, _env(self._folder)) as provision:
            assert provision.wait(PATIENCE) == 0, provision.tail()
        for name in ("server", *SITES):
            self._allow(self.kits / name / "local")

    def _allow(self, local: Path) -> None:
        """Allow our executor in jobs, as a site's administrator does once, and set a separate job store."""
        # every server of a machine would run the jobs of all others
        text = (local / "resources.json.default").read_text().replace(_SHARED_STORE, str(self._folder / "store"))
        resources = json.loads(text)
        resources["class_allow_list"] += ALLOWED
        for component in resources["components"]:
            if component["id"] == "job_scheduler":
                component["args"]["max_jobs"] = _JOBS_AT_ONCE
        (local / "resources.json").write_text(json.dumps(resources))

    def _start(self, name: str, module: str, config: str, *settings: str) -> None:
        kit = self.kits / name
        command = [sys.executable, "-u", "-m", f"nvflare.private.fed.app.{module}", "-m", str(kit), "-s", config]
        command += ["--set", "secure_train=true", "org=tests", "config_folder=config", *settings]
        program = Program(command, self._folder / f"{name}.log", kit, _env(self._folder))
        self._programs[name] = self._stack.enter_context(program)
