"""``JobProcesses`` without processes: what the server's answer to a report changes, and what it does not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from redflare_workers.client.parent.client_engine import ClientEngine
from redflare_workers.client.parent.job_processes import JobProcesses
from redflare_workers.client.parent.run_record import RunRecord
from redflare_workers.processes.how_ended import NOT_RUNNING
from redflare_workers.protocol.parent_messages import SiteReport
from redflare_workers.protocol.site_job_status import ClientStatus
from redflare_workers.workspace.run_folder import APP_FILE, PROCESS_FILE, RunFolder
from redflare_workers.workspace.site_settings import Site, SiteArgs, SiteSettings

from tests.support.federation.client_parents import JOB, META, SITE_1, app_of


class HeldReporter:
    """A reporter whose reports the test answers."""

    def __init__(self) -> None:
        self.waiting: list[tuple[SiteReport, Callable[[str], object]]] = []

    def report(self, report: SiteReport, taken: Callable[[str], object]) -> None:
        self.waiting.append((report, taken))

    def log(self, job_id: str, lines: Sequence[str], submission: str = "") -> None: ...


def processes_with(workspace: Path, record: RunRecord) -> tuple[JobProcesses, HeldReporter]:
    """The runs of a client parent that has found the record of one, and does not resume it."""
    folder = RunFolder(workspace, JOB)
    folder.path.mkdir()
    (folder.path / APP_FILE).write_text("app")
    folder.write(PROCESS_FILE, asdict(record))
    processes = ClientEngine(Site(name=SITE_1), SiteArgs(workspace=workspace), 0).processes
    processes.recover()
    reporter = processes.reporter = HeldReporter()
    return processes, reporter


@pytest.mark.parametrize("run", ["the-one", "an-earlier-one"])
def test_the_servers_answer_aborts_the_run_that_it_is_about_and_no_other(tmp_path: Path, run: str) -> None:
    record = RunRecord(job=JOB, run="the-one", status=ClientStatus.STARTED)
    processes, reporter = processes_with(tmp_path, record)
    processes.on_change(replace(record, run=run))
    [(report, taken)] = reporter.waiting
    assert report.run == run
    taken("the job is FINISHED:ABORTED")
    found = processes.find(JOB)
    assert found is not None
    assert found.record.abort == ("the job is FINISHED:ABORTED" if run == "the-one" else "")


@pytest.mark.parametrize("run", ["the-one", "an-earlier-one"])
def test_the_end_of_a_run_is_reported_until_the_server_has_that_of_this_very_run(tmp_path: Path, run: str) -> None:
    record = RunRecord(job=JOB, run="the-one", status=ClientStatus.STOPPED, exit_code=0)
    processes, reporter = processes_with(tmp_path, record)
    processes.on_change(replace(record, run=run))
    [(_, taken)] = reporter.waiting
    taken("")
    known = RunRecord.read(processes.folder(JOB))
    assert known is not None
    assert known.reported is (run == "the-one")


@pytest.mark.parametrize("reported", [True, False])
def test_the_next_client_parent_reports_an_end_that_the_server_does_not_know(tmp_path: Path, reported: bool) -> None:
    record = RunRecord(job=JOB, run="the-one", status=ClientStatus.EXCEPTION, exit_code=77, reported=reported)
    processes, reporter = processes_with(tmp_path, record)
    processes.resume()
    assert [(report.run, report.exit_code) for report, _ in reporter.waiting] == ([] if reported else [("the-one", 77)])


def test_a_job_that_is_aborted_before_its_start_starts_when_it_is_deployed_again_and_not_before(tmp_path: Path) -> None:
    """The server aborts a job that it gives to its sites just then: deploy and start may be on their way."""
    engine = ClientEngine(Site(name=SITE_1, settings=SiteSettings(allow_custom=True)), SiteArgs(workspace=tmp_path), 0)
    processes = engine.processes
    assert engine.deploy_app("app", JOB, META, SITE_1, app_of("Adding")) == ""
    assert processes.abort(JOB, "enough", bar=True).result(10).how == NOT_RUNNING
    with pytest.raises(RuntimeError, match="was aborted before it was started: enough"):
        processes.start(JOB)
    assert engine.deploy_app("app", JOB, META, SITE_1, app_of("Adding")) == ""
    # it would be launched now
    processes.stop(0.0)
    with pytest.raises(RuntimeError, match="the client parent is being stopped"):
        processes.start(JOB)


def test_an_abort_of_a_job_whose_run_is_over_does_not_keep_it_from_being_started_again(tmp_path: Path) -> None:
    record = RunRecord(job=JOB, run="the-one", status=ClientStatus.STOPPED, exit_code=0, reported=True)
    processes, _ = processes_with(tmp_path, record)
    processes.folder(JOB).app_folder(SITE_1).mkdir(parents=True)
    processes.abort(JOB, "enough", bar=True).result(10)
    # it would be launched now
    processes.stop(0.0)
    with pytest.raises(RuntimeError, match="the client parent is being stopped"):
        processes.start(JOB)


def test_the_run_of_a_job_that_was_submitted_under_the_id_of_a_deleted_one_is_left_alone(tmp_path: Path) -> None:
    record = RunRecord(job=JOB, run="the-one", status=ClientStatus.STOPPED, exit_code=0, reported=True)
    processes, _ = processes_with(tmp_path, record)
    folder = processes.folder(JOB)
    assert "is not the run of the job that was deleted" in processes.delete(JOB, ["another submission"])
    assert folder.is_run
    assert processes.delete(JOB) == ""
    assert not folder.is_run


@pytest.mark.parametrize(("run", "status"), [("the-one", "started"), (None, "started"), ("an-earlier-one", "starting")])
def test_a_process_that_was_replaced_does_not_say_how_its_successor_stands(
    tmp_path: Path, run: str | None, status: str
) -> None:
    processes, reporter = processes_with(tmp_path, RunRecord(job=JOB, run="the-one"))
    processes.note_status(JOB, ClientStatus.STARTED, run)
    assert processes.status(JOB).label == status
    assert [report.status for report, _ in reporter.waiting] == ([status] if status == "started" else [])
