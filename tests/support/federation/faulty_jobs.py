"""Jobs that bring their own code, mostly to fail at one place; and checks that nothing of them is left."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from redflare_workers.jobs import pack_files

from tests.support.federation.commands import OperatedFederation
from tests.support.waiting import wait_until

FEDAVG: Final = "redflare_workers.workflow.FedAvg"
#: The files of a workspace without jobs.
_OWN: Final = {"audit", "comm_config.json", "local"}
_LOCAL: Final = {"site.json", "lock"}

#: Code of jobs. ``at`` is the place where it fails, ``only`` the site; elsewhere it adds 1 to each weight.
EXECUTOR: Final = """
import os
import threading
from pathlib import Path

from redflare_workers import DXO, DataKind, EventType, Executor, from_shareable

class Mine(Executor):
    def __init__(self, at="", only="site-1"):
        super().__init__()
        self.at = at if Path(__file__).parent.parent.name == f"app_{only}" else ""
        if self.at == "init":
            raise OSError("no such device")
        if self.at == "slow":
            print("making", flush=True)
            threading.Event().wait()

    def handle_event(self, event_type, fl_ctx):
        if event_type == EventType.START_RUN and self.at == "start":
            raise OSError("no such table")

    def execute(self, task_name, shareable, fl_ctx, abort_signal):
        current_round = shareable.get_header("current_round")
        print(f"works on round {current_round}", flush=True)
        if self.at == "round 2" and current_round == 1:
            raise OSError("the data are gone")
        if self.at == "panic" and current_round == 1:
            self.system_panic("the data are gone", fl_ctx)
        if self.at == "crash" and current_round == 1:
            os._exit(77)
        if self.at == "hang" and current_round == 1:
            threading.Event().wait()
        if self.at == "listen":
            aborted = threading.Event()
            with abort_signal.add_callback(aborted.set):
                aborted.wait()
        return DXO(DataKind.WEIGHTS, {"w": [each + 1 for each in from_shareable(shareable).data["w"]]}).to_shareable()
"""
FLOW: Final = """
import threading

from redflare_workers import EventType
from redflare_workers.workflow import FedAvg

class Flow(FedAvg):
    def __init__(self, at="", **args):
        super().__init__(**args)
        self.at = at
        if at == "init":
            raise OSError("no such model")
        if at == "slow":
            print("making", flush=True)
            threading.Event().wait()

    def start_controller(self, fl_ctx):
        super().start_controller(fl_ctx)
        if self.at == "start":
            raise OSError("no such table")

    def _run_round(self, abort_signal, fl_ctx):
        if self.at == "round 2" and self.current_round == 1:
            raise OSError("the disk is full")
        if self.at == "hang" and self.current_round == 1:
            threading.Event().wait()
        return super()._run_round(abort_signal, fl_ctx)
"""


def files_of(
    name: str,
    *,
    site: Mapping[str, Any] | None = None,
    server: Mapping[str, Any] | None = None,
    executor: str = EXECUTOR,
    flow: str = FLOW,
    rounds: int = 3,
    clients: int = 3,
    **meta: Any,
) -> dict[str, bytes]:
    """Return the files of a job, by path.

    Args:
        site: arguments of the executor.
        server: of the workflow, besides those of ``FedAvg``.
        executor: its code.
        flow: that of the workflow.
        clients: that a round waits for, and that the job needs.
    """
    averaging = {"initial_model": {"w": [0.0]}, "min_clients": clients, "num_rounds": rounds, "save_dir": "models"}
    workflow = {"path": "flow.Flow", "args": {"wait_time_after_min_received": 0, **averaging, **(server or {})}}
    executors = [{"tasks": ["train"], "executor": {"path": "mine.Mine", "args": dict(site or {})}}]
    meta = {"name": name, "min_clients": clients, "deploy_map": {"app": ["@ALL"]}, **meta}
    return {
        "meta.json": json.dumps(meta).encode(),
        "app/config/config_fed_server.json": json.dumps({"format_version": 2, "workflows": [workflow]}).encode(),
        "app/config/config_fed_client.json": json.dumps({"format_version": 2, "executors": executors}).encode(),
        "app/custom/mine.py": executor.encode(),
        "app/custom/flow.py": flow.encode(),
    }


class FaultyJobs:
    """Submits jobs that bring code to a federation, and checks what is left of them.

    Args:
        operated: the federation; its sites must allow code of jobs.
    """

    def __init__(self, operated: OperatedFederation) -> None:
        self.operated = operated

    def allow_code(self, **settings: Any) -> None:
        """Let the server take jobs that bring code."""
        local = self.operated.folder / "server" / "local"
        local.mkdir(parents=True, exist_ok=True)
        (local / "site.json").write_text(json.dumps({"allow_custom": True, **settings}))

    def submit(self, name: str, *flags: str, code: int = 0, **options: Any) -> str:
        """Submit a job of ``files_of`` under its name."""
        (self.operated.folder / f"{name}.zip").write_bytes(pack_files(files_of(name, **options)))
        return self.operated("job", "submit", f"{name}.zip", "--id", name, *flags, code=code)

    def submit_at_once(self, name: str) -> None:
        """Submit a job without a command, which takes longer than a heartbeat lives."""
        files = files_of(name)
        self.operated.store.submit(json.loads(files["meta.json"]), pack_files(files), name)

    def assert_clean(self, *jobs: str) -> None:
        """Delete these jobs: their files, processes and keys are gone, and nothing else was written anywhere."""
        operated = self.operated
        if jobs:
            operated("job", "delete", *jobs)
        wait_until(lambda: not any(operated.folders_of(job) for job in jobs), 20, "the folders of jobs are gone")
        wait_until(lambda: not operated.processes_of("job_main"), 20, "no process of a job is left")
        for key in operated.client.scan_iter("*"):
            assert operated.client.pttl(key) != -1, f"{key!r} has no TTL"
            assert not any(f":job:{job}:".encode() in key for job in jobs), f"{key!r} is left of a job"
        self._assert_files()

    def _assert_files(self) -> None:
        """Check that there are no unexpected files."""
        folder = self.operated.folder
        workspaces = {"server", *(f"site-{number}" for number in (1, 2, 3))}
        for path in folder.iterdir():
            if path.name in workspaces:
                assert {each.name for each in path.iterdir()} <= _OWN, path
                assert {each.name for each in (path / "local").iterdir()} <= _LOCAL, path
            elif path.name in ("tmp", "home"):
                assert not list(path.rglob("*")), path
            elif path.name.startswith("trainer-"):
                others = [each.name for each in path.iterdir() if not each.name.startswith("began-")]
                assert set(others) <= {"trainer.py", "slow", "hang", "fail"}, path
            else:
                assert path.suffix in (".log", ".zip") or (path / "meta.json").is_file(), path


def pause(pids: list[int]) -> None:
    """SIGSTOP processes."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)


@contextmanager
def paused(pids: list[int]) -> Iterator[None]:
    """Stop processes for the length of a with block."""
    assert pids
    pause(pids)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
