"""The jobs of ``ClientEngine``, sentence by sentence, in real processes over a real server."""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from redflare_broker.cell.request import Reply
from redflare_workers import ClientEngine, Shareable, Site, SiteArgs
from redflare_workers.jobs import pack_files
from redflare_workers.protocol.job_control import PingRun
from redflare_workers.protocol.site_job_status import ClientStatus

from tests.fundamentals.documented.sentences import documented
from tests.support.federation.client_parents import META, PATIENCE, SITE_1, Sites, app_of, client_config, sites_at
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")

CONFIG = json.dumps(client_config("redflare_workers.IPCExchanger")).encode()
APP = pack_files({"config/config_fed_client.json": CONFIG})
LAUNCHED, LATE = "Start the client app...", "Client app already started."
ABORTED, OVER = "Abort signal has been sent to the client App.", "Client app already stopped."


class Running:
    """A client parent whose jobs run in processes."""

    def __init__(self, sites: Sites) -> None:
        self.sites = sites
        self.engine = sites.engine()
        sites.parent_server()

    def deploy(self, job: str, executor: str = "Waiting") -> None:
        assert self.engine.deploy_app("app", job, META, SITE_1, app_of(executor)) == ""

    def start(self, job: str, executor: str = "Waiting", *more: Any) -> str:
        """Start a job whose server runs; return the message."""
        self.sites.server_job(job, rounds=1)
        self.deploy(job, executor)
        return self.engine.start_app(job, META, *more)

    def work(self, job: str) -> ClientEngine:
        """Start a job, and wait until it executes its task."""
        assert self.start(job) == LAUNCHED
        wait_until(lambda: (job, "working") in self.sites.reporter.lines, PATIENCE, job)
        wait_until(lambda: self.engine.processes.status(job) is ClientStatus.STARTED, PATIENCE, job)
        return self.engine

    def is_over(self, job: str) -> bool:
        """Whether the process of a job has stopped, and is gone."""
        run = self.engine.processes.find(job)
        return run is not None and run.status is ClientStatus.STOPPED and not run.live


@pytest.fixture(scope="module")
def running(server_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with sites_at(server_url, tmp_path_factory.mktemp("sites"), f"t{uuid.uuid4().hex[:12]}") as sites:
        yield Running(sites)


@pytest.fixture(scope="module")
def at_work(running: Running) -> ClientEngine:
    """The engine while job "at-work" executes its task "train"."""
    return running.work("at-work")


# -- deploy_app --------------------------------------------------------------------------------------------------------


@documented("ClientEngine.deploy_app")
def test_an_app_is_deployed_to_the_folder_of_its_job(engine: ClientEngine, tmp_path: Path) -> None:
    assert engine.deploy_app("app", "job-1", META, SITE_1, APP) == ""
    assert (tmp_path / "job-1" / f"app_{SITE_1}" / "config" / "config_fed_client.json").read_bytes() == CONFIG


@documented("ClientEngine.deploy_app")
def test_the_name_of_the_app_is_kept(engine: ClientEngine, tmp_path: Path) -> None:
    engine.deploy_app("mine", "job-1", META, SITE_1, APP)
    assert (tmp_path / "job-1" / "fl_app.txt").read_text() == "mine"


@documented("ClientEngine.deploy_app")
def test_the_meta_of_the_job_is_kept(engine: ClientEngine, tmp_path: Path) -> None:
    engine.deploy_app("app", "job-1", {**META, "agent_id": "trainer"}, SITE_1, APP)
    assert json.loads((tmp_path / "job-1" / "meta.json").read_text())["agent_id"] == "trainer"


@documented("ClientEngine.deploy_app")
def test_the_client_name_is_that_of_the_site(engine: ClientEngine) -> None:
    assert "site-9" in engine.deploy_app("app", "job-1", META, "site-9", APP)


@documented("ClientEngine.deploy_app")
def test_the_app_s_data_is_a_zip_archive(engine: ClientEngine) -> None:
    assert "is not a zip archive" in engine.deploy_app("app", "job-1", META, SITE_1, b"no archive")


@documented("ClientEngine.deploy_app")
def test_an_error_is_returned_as_a_message_and_nothing_is_left(engine: ClientEngine, tmp_path: Path) -> None:
    assert engine.deploy_app("app", "../up", META, SITE_1, APP).startswith("ERROR: ")
    assert list(tmp_path.iterdir()) == []


@documented("ClientEngine.deploy_app")
def test_an_app_deployer_among_the_components_deploys(engine: ClientEngine) -> None:
    deployed: list[str] = []

    def deploy(workspace: Any, job_id: str, *more: Any) -> str:
        deployed.append(job_id)
        return ""

    engine.add_component("app_deployer", SimpleNamespace(deploy=deploy))
    assert engine.deploy_app("app", "job-1", META, SITE_1, APP) == ""
    assert deployed == ["job-1"]


# -- start_app ---------------------------------------------------------------------------------------------------------


@documented("ClientEngine.start_app")
def test_an_app_is_started_in_a_process_of_its_own(at_work: ClientEngine) -> None:
    run = at_work.processes.find("at-work")
    assert run is not None
    assert Path(f"/proc/{run.record.pid}").exists()


@documented("ClientEngine.start_app")
def test_a_message_says_that_an_app_is_started(running: Running) -> None:
    assert running.start("is-started") == LAUNCHED


@documented("ClientEngine.start_app")
def test_a_message_says_that_an_app_was_started_before(at_work: ClientEngine) -> None:
    assert at_work.start_app("at-work", META) == LATE


@documented("ClientEngine.start_app")
def test_a_message_says_that_an_app_must_be_deployed_before(engine: ClientEngine) -> None:
    wanted = "ERROR: Client app does not exist. Please deploy it before starting client."
    assert engine.start_app("job-1", META) == wanted


@documented("ClientEngine.start_app")
def test_resources_that_were_allocated_are_freed_when_the_app_has_ended(running: Running) -> None:
    freed: list[tuple[Any, Any]] = []
    manager = SimpleNamespace(free_resources=lambda resources, token, fl_ctx: freed.append((resources, token)))
    assert running.start("with-resources", "Waiting", {"gpus": 1}, "token", manager) == LAUNCHED
    assert freed == []
    running.engine.abort_app("with-resources")
    wait_until(lambda: freed == [({"gpus": 1}, "token")], PATIENCE)


# -- status ------------------------------------------------------------------------------------------------------------


@documented("ClientEngine.notify_job_status")
def test_the_engine_is_told_the_new_status_of_a_job(running: Running) -> None:
    # its constructor never returns, so its process tells nothing
    assert running.start("is-starting", "Slow") == LAUNCHED
    assert running.engine.processes.status("is-starting") is ClientStatus.STARTING
    running.engine.notify_job_status("is-starting", ClientStatus.STARTED)
    assert running.engine.processes.status("is-starting") is ClientStatus.STARTED


@documented("ClientEngine.get_all_job_ids")
def test_the_ids_of_the_jobs_that_run_are_listed(at_work: ClientEngine) -> None:
    assert "at-work" in at_work.get_all_job_ids()


@documented("ClientEngine.get_all_job_ids")
def test_a_job_that_does_not_run_is_not_listed(running: Running) -> None:
    running.deploy("not-started")
    assert "not-started" not in running.engine.get_all_job_ids()


@documented("ClientEngine.get_current_run_info")
def test_the_info_of_a_run_has_job_task_and_start(at_work: ClientEngine) -> None:
    info = at_work.get_current_run_info("at-work")
    assert (info.job_id, info.current_task_name, info.status) == ("at-work", "train", ClientStatus.STARTED)
    assert info.start_time is not None


@documented("ClientEngine.get_current_run_info")
def test_the_info_of_a_job_that_does_not_run_says_so(engine: ClientEngine) -> None:
    info = engine.get_current_run_info("job-1")
    assert (info.current_task_name, info.start_time, info.status) == ("", None, ClientStatus.NOT_STARTED)


# -- abort_app and abort_task ------------------------------------------------------------------------------------------


@documented("ClientEngine.abort_app")
def test_an_abort_ends_the_app_and_a_message_says_that_it_was_told(running: Running) -> None:
    engine = running.work("is-aborted")
    assert engine.abort_app("is-aborted") == ABORTED
    assert running.is_over("is-aborted")


@documented("ClientEngine.abort_app")
def test_a_message_says_that_the_app_that_is_aborted_has_stopped_already(running: Running) -> None:
    engine = running.engine
    running.start("has-stopped", "Adding")
    wait_until(lambda: running.is_over("has-stopped"), PATIENCE)
    assert engine.abort_app("has-stopped") == OVER


@documented("ClientEngine.abort_app")
def test_a_message_says_that_the_app_that_is_aborted_was_not_started(engine: ClientEngine) -> None:
    assert engine.abort_app("job-1") == "Client app has not started."


@documented("ClientEngine.abort_task")
def test_an_abort_of_the_task_ends_what_the_app_does_and_not_the_app(running: Running) -> None:
    engine = running.work("task-is-aborted")
    assert engine.abort_task("task-is-aborted") == "Abort signal has been sent to the current task."
    aborted = ("task-is-aborted", "aborted: abort_task was called")
    wait_until(lambda: aborted in running.sites.reporter.lines, PATIENCE)
    assert [each.how for each in running.sites.reporter.reports if each.job == "task-is-aborted" and each.how] == []


@documented("ClientEngine.abort_task")
def test_a_message_says_that_the_app_of_the_task_was_not_started(engine: ClientEngine) -> None:
    assert engine.abort_task("job-1") == "Client app has not started."


@documented("ClientEngine.abort_task")
def test_a_message_says_that_the_app_of_the_task_is_about_to_start(running: Running) -> None:
    running.start("about-to-start", "Slow")
    wanted = "Client app is starting, please wait for started before abort_task."
    assert running.engine.abort_task("about-to-start") == wanted


# -- delete_run --------------------------------------------------------------------------------------------------------


@documented("ClientEngine.delete_run")
def test_the_folder_of_a_run_is_deleted_and_a_message_names_it(engine: ClientEngine, tmp_path: Path) -> None:
    engine.deploy_app("app", "job-1", META, SITE_1, APP)
    assert engine.delete_run("job-1") == f"Delete run folder: {tmp_path / 'job-1'}."
    assert not (tmp_path / "job-1").exists()


@documented("ClientEngine.delete_run")
def test_deleting_a_run_that_is_not_there_is_no_error(engine: ClientEngine, tmp_path: Path) -> None:
    assert engine.delete_run("job-1") == f"Delete run folder: {tmp_path / 'job-1'}."


# -- send_to_job -------------------------------------------------------------------------------------------------------


def ping(engine: ClientEngine, job: str = "at-work", topic: str = PingRun.TOPIC, **more: Any) -> Reply:
    """Ask the process of a job for its task."""
    run = engine.processes.find(job)
    name = run.record.run if run else ""
    return engine.send_to_job(job, PingRun.CHANNEL, topic, {"run": name}, more.pop("timeout", PATIENCE), **more)


@documented("ClientEngine.send_to_job")
def test_a_message_to_a_job_gets_the_reply_of_its_process(at_work: ClientEngine) -> None:
    reply = ping(at_work)
    assert (reply.rc, reply.meta["task"]) == ("OK", "train")


@documented("ClientEngine.send_to_job")
def test_channel_and_topic_choose_who_handles_a_message(at_work: ClientEngine) -> None:
    assert ping(at_work, topic="odd").rc == "TOPIC_UNKNOWN"


@documented("ClientEngine.send_to_job")
def test_a_reply_is_waited_for_no_longer_than_the_timeout(running: Running) -> None:
    assert ping(running.engine, "no-such-job", timeout=0.1).rc in ("TIMEOUT", "COMM_ERROR")


@documented("ClientEngine.send_to_job")
def test_the_failure_of_an_optional_message_is_no_warning(
    engine: ClientEngine, caplog: pytest.LogCaptureFixture
) -> None:
    for optional in (True, False):
        assert "WARNING" not in caplog.text
        engine.send_to_job("job-1", "c", "t", {}, 0.1, optional)
    assert "WARNING" in caplog.text


@documented("ClientEngine.send_to_job", differs="`send_to_job` of a client parent")
def test_message_and_reply_are_messages_of_a_cell(at_work: ClientEngine) -> None:
    messages: list[Any] = [Shareable(), {}, None]
    for message in messages:
        assert isinstance(at_work.send_to_job("at-work", "c", "t", message, PATIENCE), Reply)


# -- administration ----------------------------------------------------------------------------------------------------


ABSENT = ("get_engine_status", "get_errors", "reset_errors", "configure_job_log", "set_agent", "shutdown", "restart")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            each, marks=documented(f"ClientEngine.{each}", differs="Administration of a client parent"), id=each
        )
        for each in ABSENT
    ],
)
def test_the_admin_console_has_its_methods(tmp_path: Path, name: str) -> None:
    assert not hasattr(ClientEngine(Site(name=SITE_1), SiteArgs(workspace=tmp_path), 0), name)
