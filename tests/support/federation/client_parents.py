"""Client parents for tests: with a workspace, apps to deploy, and a reporter that records their reports."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from redflare_broker.cell.cell import Cell, HandlerResult, Reply, Request
from redflare_broker.config.settings import load_settings
from redflare_broker.transport.server import Server
from redflare_workers.client.parent.client_engine import ClientEngine
from redflare_workers.jobs import pack_files
from redflare_workers.processes.process_table import start_time
from redflare_workers.protocol.job_outcome import JobOutcome
from redflare_workers.protocol.parent_messages import SiteLog, SiteReport, SiteReportReply, SiteRequest
from redflare_workers.server.job.server_job import ServerJob
from redflare_workers.workflow import FedAvg
from redflare_workers.workspace.site_settings import Site, SiteArgs, load_site_settings

from tests.programs import client_parent
from tests.programs.client_parent import ClientParentArgs
from tests.support.cell.cells import Cells
from tests.support.link.processes import RETENTION
from tests.support.process.child import Child
from tests.support.waiting import wait_until

#: Seconds for the start or the end of a job's process on a busy machine.
PATIENCE: Final = 40.0
SITE_1: Final = "site-1"
JOB: Final = "job-1"
META: Final[dict[str, Any]] = {"name": "means", "min_clients": 1, "deploy_map": {"app": ["@ALL"]}}

#: Executors that tests deploy as code of the job.
CUSTOM: Final = '''
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from redflare_workers import DXO, DataKind, Executor, from_shareable, make_reply

class Adding(Executor):
    """Adds a step to each weight."""

    def __init__(self, step=1.0, say="", child=False):
        super().__init__()
        self.step, self.say, self.child = step, say, child

    def execute(self, task_name, shareable, fl_ctx, abort_signal):
        if self.say:
            print(self.say, flush=True)
        if self.child:
            start_child()
        weights = from_shareable(shareable).data["w"]
        return DXO(DataKind.WEIGHTS, {"w": [each + self.step for each in weights]}).to_shareable()

def start_child():
    command = [sys.executable, "-c", "import signal; signal.pause()"]
    child = subprocess.Popen(command, start_new_session=True)
    print("child", child.pid, flush=True)

class Waiting(Executor):
    """Waits until it is aborted, and goes on after that if it ignores aborts."""

    def __init__(self, ignores=(), child=False):
        super().__init__()
        self.child, self.ignores = child, ignores

    def execute(self, task_name, shareable, fl_ctx, abort_signal):
        if self.child:
            start_child()
        print("working", flush=True)
        if "abort" in self.ignores:
            threading.Event().wait()
        aborted = threading.Event()
        with abort_signal.add_callback(aborted.set):
            aborted.wait()
        print("aborted:", abort_signal.value, flush=True)
        return make_reply("TASK_ABORTED")

class Frozen(Waiting):
    """Stops its process when it is executed: no thread goes on."""

    def execute(self, task_name, shareable, fl_ctx, abort_signal):
        print("working", flush=True)
        os.kill(os.getpid(), signal.SIGSTOP)

class Failing(Executor):
    def execute(self, task_name, shareable, fl_ctx, abort_signal):
        print("last words", flush=True)
        self.system_panic("the data are gone", fl_ctx)
        return make_reply("EXECUTION_EXCEPTION")

class Crashing(Executor):
    def execute(self, task_name, shareable, fl_ctx, abort_signal):
        print("last words", flush=True)
        os._exit(77)

class Refusing(Adding):
    def __init__(self):
        raise RuntimeError("no such device")

class Slow(Adding):
    """Its constructor never returns."""

    def __init__(self):
        print("making", flush=True)
        threading.Event().wait()
'''


@contextmanager
def at_a_cell(engine: ClientEngine, cells: Cells) -> Iterator[ClientEngine]:
    """Give a client parent a cell that runs, at the server of other cells."""
    cell = Cell(cells.server, SITE_1, cells.settings)
    engine.initialize_comm(cell, reporter=RecordingReporter())
    cell.start()
    yield engine
    engine.close()
    cell.stop(2.0)


def client_config(path: str, args: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A config with one executor for all tasks."""
    return {"format_version": 2, "executors": [{"tasks": ["*"], "executor": {"path": path, "args": dict(args or {})}}]}


def app_of(executor: str, custom: str = CUSTOM, **args: Any) -> bytes:
    """The archive of an app with one of the executors of ``CUSTOM``."""
    config = json.dumps(client_config(f"mine.{executor}", args)).encode()
    return pack_files({"config/config_fed_client.json": config, "custom/mine.py": custom.encode()})


class RecordingReporter:
    """Records reports and lines of logs; as a ``Reporter``, or as the server's parent process at a cell."""

    def __init__(self) -> None:
        self.reports: list[SiteReport] = []
        self.lines: list[tuple[str, str]] = []
        #: by job: the reason for which it must be aborted
        self.abort: dict[str, str] = {}

    def report(self, report: SiteReport, taken: Callable[[str], object]) -> None:
        self.reports.append(report)
        taken(self.abort.get(report.job, ""))

    def log(self, job_id: str, lines: Sequence[str], submission: str = "") -> None:
        self.lines += [(job_id, line) for line in lines]

    def on_report(self, request: Request) -> HandlerResult:
        report = SiteReport.from_meta(request.meta)
        self.reports.append(report)
        return "OK", SiteReportReply(abort=self.abort.get(report.job, "")).to_meta(), None

    def on_log(self, request: Request) -> HandlerResult:
        message = SiteLog.from_meta(request.meta)
        self.log(message.job, message.lines)
        return None

    def statuses(self, job: str = JOB) -> list[str]:
        return [report.status for report in self.reports if report.job == job]

    def wait_for(self, status: str, job: str = JOB) -> SiteReport:
        """Wait until the last report of a job has this status; return that report."""
        wait_until(lambda: status in self.statuses(job)[-1:], PATIENCE, f"job {job} {status}: {self.reports}")
        return next(report for report in reversed(self.reports) if report.job == job)

    def wait_for_line(self, text: str, count: int = 1) -> str:
        """Wait for a line that contains the text; return the last one."""

        def found() -> list[str]:
            return [line for _, line in self.lines if text in line]

        return wait_until(lambda: found() if len(found()) >= count else None, PATIENCE, f"{text!r}, {self.lines}")[-1]  # type: ignore[index]


class Sites:
    """Client parents of one namespace, an SP that only records reports, and SJs."""

    def __init__(self, url: str, folder: Path, namespace: str) -> None:
        self.url = url
        self.folder = folder
        self.namespace = namespace
        self.reporter = RecordingReporter()
        #: client parents in this process
        self.engines: list[ClientEngine] = []
        self._undo: list[Callable[[], object]] = []

    def workspace(self, site: str = SITE_1, **settings: Any) -> Path:
        """A site's workspace, which allows what tests deploy."""
        path = self.folder / site
        (path / "local").mkdir(parents=True, exist_ok=True)
        settings = {"allow_custom": True, "abort_grace": 5.0, "stop_grace": 2.0, **settings}
        (path / "local" / "site.json").write_text(json.dumps(settings))
        comm = {
            "namespace": self.namespace,
            "heartbeat_interval": 0.2,
            "heartbeat_ttl": 3.0,
            "retention": {"retention": RETENTION, "settled_retention": 4.0, "result_keep": 3.0},
        }
        (path / "comm_config.json").write_text(json.dumps(comm))
        return path

    def args(self, site: str = SITE_1) -> SiteArgs:
        return SiteArgs(workspace=self.folder / site, redis_url=self.url)

    def engine(self, site: str = SITE_1, *, workers: int = 5, take_over: bool = False, **settings: Any) -> ClientEngine:
        """Run a client parent in this process."""
        workspace = self.workspace(site, **settings)
        args = replace(self.args(site), take_over=take_over)
        engine = ClientEngine(Site(name=site, settings=load_site_settings(workspace)), args, 0, workers)
        thread = threading.Thread(target=engine.run, name=f"client-parent-{site}")
        thread.start()

        def end() -> None:
            engine.stop()
            thread.join(PATIENCE)
            assert not thread.is_alive()

        self._undo.append(end)
        self.engines.append(engine)
        wait_until(lambda: engine.cell is not None and engine.cell.epoch, PATIENCE)
        return engine

    def process(self, site: str = SITE_1, **settings: Any) -> Child:
        """Run a client parent in a process of its own."""
        workspace = self.workspace(site, **settings)
        args = ClientParentArgs(url=self.url, workspace=str(workspace), site=site)
        child = Child(client_parent.main, args, self.folder / f"{site}-{len(self._undo)}.log")
        self._undo.append(child.close)
        child.receive("started")
        return child

    def end_engine(self) -> None:
        """Stop the client parent that was made last."""
        self._undo.pop()()

    def cell(
        self, fqcn: str, handlers: Mapping[tuple[str, str], Callable[[Request], HandlerResult]] | None = None
    ) -> Cell:
        """A cell of the test's own."""
        server = Server.connect(self.url)
        cell = Cell(server, fqcn, load_settings(self.workspace("cells")))
        for (channel, topic), handler in (handlers or {}).items():
            cell.register_request_cb(channel, topic, handler)
        cell.start()
        self._undo += [server.close, cell.stop]
        return cell

    def parent_server(self) -> ServerParentCell:
        """The server's parent process."""
        handlers = {
            (SiteReport.CHANNEL, SiteReport.TOPIC): self.reporter.on_report,
            (SiteLog.CHANNEL, SiteLog.TOPIC): self.reporter.on_log,
        }
        return ServerParentCell(self.cell("server", handlers))

    def server_job(self, job: str = JOB, rounds: int = 2, clients: int = 1) -> ServerJobThread:
        """The server of a job."""
        controller = FedAvg({"w": [0.0]}, min_clients=clients, num_rounds=rounds, wait_time_after_min_received=0)
        settings = load_settings(self.workspace("server"))
        running = ServerJobThread(ServerJob(controller, redis_url=self.url, job_id=job, settings=settings))
        self._undo.append(running.end)
        return running

    def close(self) -> None:
        while self._undo:
            self._undo.pop()()


class ServerJobThread:
    """An SJ in a thread."""

    def __init__(self, job: ServerJob) -> None:
        self.job = job
        self.outcome: JobOutcome | None = None
        self._thread = threading.Thread(target=self._run, name="server-job")
        self._thread.start()

    def _run(self) -> None:
        self.outcome = self.job.run()

    def wait(self) -> JobOutcome:
        """Wait for the outcome."""
        self._thread.join(PATIENCE)
        assert self.outcome is not None
        return self.outcome

    def end(self) -> None:
        if self.outcome is None:
            self.job.abort("the test is over")
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()


class ServerParentCell:
    """Sends requests to sites as the SP does."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell

    def ask(self, request: type[SiteRequest], data: object = None, site: str = SITE_1, **fields: Any) -> Reply:
        meta = request(**{"job": JOB, **fields}).to_meta()
        return self.cell.send_request(request.CHANNEL, request.TOPIC, site, meta, data, timeout=PATIENCE)


def is_gone(pid: int) -> bool:
    """No such process runs."""
    return not start_time(pid)


@contextmanager
def sites_at(url: str, folder: Path, namespace: str) -> Iterator[Sites]:
    """Sites at a real server."""
    sites = Sites(url, folder, namespace)
    try:
        yield sites
    finally:
        sites.close()
