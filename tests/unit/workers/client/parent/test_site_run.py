"""One run of a job at a site, with other programs as its process: it always ends with a definite status."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from redflare_workers.client.parent.client_engine import ClientEngine
from redflare_workers.client.parent.run_record import RunRecord
from redflare_workers.client.parent.site_run import SiteRun
from redflare_workers.protocol.site_job_status import ClientStatus
from redflare_workers.workspace.job_report import ClientJobReport
from redflare_workers.workspace.run_folder import APP_FILE, ARGS_FILE, OUTCOME_FILE, RunFolder
from redflare_workers.workspace.site_settings import Site, SiteArgs, SiteSettings

from tests.support.federation.client_parents import JOB, META, SITE_1, app_of
from tests.support.waiting import wait_until


class RunCallbacks:
    """The callbacks of a run, and a program as its process."""

    def __init__(self, program: str, restarts: int = 3) -> None:
        self.settings = SiteSettings(abort_grace=0.1, stop_grace=5.0, restarts=restarts)
        self.started: list[str] = []
        self.ended: list[RunRecord] = []
        self.notifying, self.notified = threading.Event(), threading.Event()
        self._program = program

    def command(self, record: RunRecord) -> list[str]:
        self.started.append(record.run)
        return [sys.executable, "-c", self._program]

    def request_end(self, job_id: str, run: str, reason: str) -> None:
        pass

    def on_lines(self, record: RunRecord, lines: Sequence[str]) -> None:
        pass

    def notify_agents(self, record: RunRecord, reason: str) -> dict[str, str]:
        self.notifying.set()
        assert self.notified.wait(20)
        return {}

    def note(self, record: RunRecord) -> None:
        pass

    def on_change(self, record: RunRecord) -> None:
        pass

    def on_end(self, record: RunRecord) -> None:
        self.ended.append(record)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    made = RunFolder(tmp_path, JOB)
    made.path.mkdir()
    (made.path / APP_FILE).write_text("app")
    yield made
    wait_until(lambda: not [each for each in threading.enumerate() if JOB in each.name])


def test_a_process_that_ends_without_a_report_has_failed_whatever_its_exit_code(folder: RunFolder) -> None:
    callbacks = RunCallbacks("pass")
    SiteRun(folder, callbacks).launch()
    wait_until(lambda: callbacks.ended)
    record = callbacks.ended[0]
    assert record.status is ClientStatus.EXCEPTION
    assert record.exit_code == 0
    assert "without reporting how" in record.reason


@pytest.mark.parametrize("restarts", [0, 2])
def test_a_process_that_is_killed_on_every_start_is_given_up(folder: RunFolder, restarts: int) -> None:
    callbacks = RunCallbacks("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", restarts)
    SiteRun(folder, callbacks).launch()
    wait_until(lambda: callbacks.ended, timeout=20)
    [record] = callbacks.ended
    assert (record.status, record.restarts) == (ClientStatus.EXCEPTION, restarts)
    assert len(set(callbacks.started)) == restarts + 1, "each start is a run of its own"


@pytest.mark.parametrize("mine", [True, False], ids=["its-own", "anothers"])
def test_the_outcome_of_another_run_is_not_taken_for_its_own(folder: RunFolder, mine: bool) -> None:
    callbacks = RunCallbacks("pass")
    run = SiteRun(folder, callbacks)
    ClientJobReport(run=run.record.run if mine else "another", reason="all is well").write(folder)
    run.launch()
    wait_until(lambda: callbacks.ended)
    assert callbacks.ended[0].status is (ClientStatus.STOPPED if mine else ClientStatus.EXCEPTION)
    assert ("all is well" in callbacks.ended[0].reason) is mine


def test_notifying_agents_of_an_abort_blocks_no_other_thread(folder: RunFolder) -> None:
    callbacks = RunCallbacks("import signal; signal.pause()")
    run = SiteRun(folder, callbacks)
    run.launch()
    proof = run.abort("enough")
    assert callbacks.notifying.wait(20)

    def others_ask() -> None:
        run.on_status(ClientStatus.STARTED)
        run.release()

    others = threading.Thread(target=others_ask, daemon=True)
    others.start()
    others.join(5)
    assert not others.is_alive()
    callbacks.notified.set()
    assert proof.result(20).how == "terminated"


@pytest.mark.parametrize("name", [ARGS_FILE, OUTCOME_FILE])
def test_a_start_that_fails_for_the_file_system_leaves_nothing_that_seems_to_run(tmp_path: Path, name: str) -> None:
    engine = ClientEngine(Site(name=SITE_1, settings=SiteSettings(allow_custom=True)), SiteArgs(workspace=tmp_path))
    assert engine.deploy_app("app", JOB, META, SITE_1, app_of("Adding")) == ""
    (tmp_path / JOB / name / "in the way").mkdir(parents=True)
    assert engine.start_app(JOB, META).startswith("ERROR: ")
    assert engine.get_all_job_ids() == []
    assert engine.abort(JOB).how == "not running"
    assert engine.deploy_app("app", JOB, META, SITE_1, app_of("Adding")) == ""
    engine.close()


def test_a_run_that_is_aborted_before_its_launch_starts_no_process_and_ends(folder: RunFolder) -> None:
    callbacks = RunCallbacks("pass")
    callbacks.notified.set()
    run = SiteRun(folder, callbacks)
    proof = run.abort("enough")
    run.launch()
    assert callbacks.started == []
    assert proof.result(20).how == "not running"
    assert [(record.status, record.reason) for record in callbacks.ended] == [(ClientStatus.STOPPED, "aborted: enough")]
