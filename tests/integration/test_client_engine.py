"""A CP with real processes of jobs: start, watching, aborts, restarts, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
from redflare_broker.cell.request import Reply
from redflare_broker.config.settings import load_settings
from redflare_broker.errors import ConfigError
from redflare_workers.client.parent.client_engine import ClientEngine
from redflare_workers.jobs import pack_files
from redflare_workers.processes.process_table import marked
from redflare_workers.protocol.job_control import PingRun
from redflare_workers.protocol.job_outcome import COMPLETED
from redflare_workers.protocol.parent_messages import (
    AbortRequest,
    DeleteRunsRequest,
    DeployRequest,
    StartRequest,
)
from redflare_workers.protocol.site_job_status import ClientStatus
from redflare_workers.workspace.site_settings import Site, SiteArgs

from tests.programs import agent as agent_program
from tests.programs.agent import AgentArgs
from tests.support.calls import together
from tests.support.federation.client_parents import (
    CUSTOM,
    JOB,
    META,
    SITE_1,
    ServerParentCell,
    Sites,
    app_of,
    client_config,
    is_gone,
    sites_at,
)
from tests.support.process.child import Child
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")


@pytest.fixture
def sites(shared_server: tuple[str, redis.Redis], tmp_path: Path, namespace: str) -> Iterator[Sites]:
    url, _ = shared_server
    with sites_at(url, tmp_path, namespace) as made:
        yield made


def deploy(engine: ClientEngine, app: bytes, job: str = JOB, **meta: Any) -> None:
    assert engine.deploy_app("app", job, {**META, **meta}, SITE_1, app) == ""


def started(sites: Sites, app: bytes, **settings: Any) -> ClientEngine:
    """Start a job at a site; return when it executes its first task."""
    sites.parent_server()
    sites.server_job()
    engine = sites.engine(SITE_1, **settings)
    deploy(engine, app)
    assert engine.start_app(JOB, META) == "Start the client app..."
    sites.reporter.wait_for_line("working")
    sites.reporter.wait_for("started")
    return engine


def run_of(engine: ClientEngine) -> tuple[int, str]:
    """Process and name of the job's run."""
    run = engine.processes.find(JOB)
    assert run is not None
    return run.record.pid, run.record.run


# -- from start to end -------------------------------------------------------------------------------------------------


def test_a_job_runs_to_its_end_in_its_own_process(sites: Sites) -> None:
    parent = sites.parent_server()
    server = sites.server_job()
    engine = sites.engine()

    assert parent.ask(DeployRequest, app_of("Adding", say="one more round"), app="app", meta=META).ok
    begun = parent.ask(StartRequest)

    assert begun.meta["message"] == "Start the client app..."
    assert server.wait().status == COMPLETED
    report = sites.reporter.wait_for("stopped")
    assert (report.exit_code, report.how, report.run) == (0, "", begun.meta["run"])
    assert sites.reporter.statuses() == ["starting", "started", "stopped"]
    assert len([line for _, line in sites.reporter.lines if line == "one more round"]) == 2
    assert "one more round\n" in (sites.folder / SITE_1 / JOB / "log.txt").read_text()
    assert engine.get_current_run_info(JOB).status is ClientStatus.STOPPED
    assert engine.delete_run(JOB) == f"Delete run folder: {sites.folder / SITE_1 / JOB}."
    assert not (sites.folder / SITE_1 / JOB).exists()


def test_processes_that_a_job_has_started_end_with_it_even_in_another_session(sites: Sites) -> None:
    sites.parent_server()
    server = sites.server_job(rounds=1)
    engine = sites.engine()
    deploy(engine, app_of("Adding", child=True))
    engine.start_app(JOB, META)
    server.wait()
    sites.reporter.wait_for("stopped")
    child = int(sites.reporter.wait_for_line("child").split()[1])
    assert is_gone(child)


@pytest.mark.parametrize(
    ("executor", "code", "reason"),
    [
        ("Failing", 1, "the data are gone"),
        ("Crashing", 77, "exit code 77"),
        ("Refusing", 101, "no such device"),
    ],
)
def test_a_failure_is_reported_with_its_reason_and_the_end_of_the_log(
    sites: Sites, executor: str, code: int, reason: str
) -> None:
    sites.parent_server()
    sites.server_job()
    engine = sites.engine()
    deploy(engine, app_of(executor))
    engine.start_app(JOB, META)

    report = sites.reporter.wait_for("exception")

    assert report.exit_code == code
    assert reason in report.reason
    assert "the end of its log:" in report.reason
    assert ("last words" in report.reason) is (executor != "Refusing")
    assert engine.processes.status(JOB) is ClientStatus.EXCEPTION


def test_code_that_fails_when_it_is_imported_is_reported(sites: Sites) -> None:
    sites.parent_server()
    engine = sites.engine()
    deploy(engine, app_of("Adding", CUSTOM + "\nraise OSError('no licence')\n"))
    engine.start_app(JOB, META)
    report = sites.reporter.wait_for("exception")
    assert (report.exit_code, "no licence" in report.reason) == (101, True)


def test_a_process_that_is_killed_by_others_is_reported(sites: Sites) -> None:
    engine = started(sites, app_of("Waiting", child=True), restarts=0)
    pid, _ = run_of(engine)
    os.kill(pid, signal.SIGKILL)
    report = sites.reporter.wait_for("exception")
    assert (report.exit_code, report.how) == (-signal.SIGKILL, "")
    assert "killed by SIGKILL" in report.reason
    assert is_gone(int(sites.reporter.wait_for_line("child").split()[1]))


def test_a_process_that_is_killed_by_others_is_started_again_and_the_job_continues(sites: Sites) -> None:
    engine = started(sites, app_of("Waiting", child=True), restarts=1)
    pid, run = run_of(engine)
    left = int(sites.reporter.wait_for_line("child").split()[1])
    os.kill(pid, signal.SIGKILL)
    sites.reporter.wait_for_line("working", 2)
    wait_until(lambda: sites.reporter.statuses() == ["starting", "started", "starting", "started"])
    assert is_gone(left)
    again, other = run_of(engine)
    assert (again != pid, other != run) == (True, True)
    sites.reporter.wait_for_line("the job's process died (killed by SIGKILL); restart 1 of 1")
    assert engine.abort(JOB, "enough").how == "cooperative"
    assert is_gone(again)


def test_a_process_that_is_killed_again_and_again_has_failed(sites: Sites) -> None:
    engine = started(sites, app_of("Waiting"), restarts=1)
    os.kill(run_of(engine)[0], signal.SIGKILL)
    sites.reporter.wait_for_line("working", 2)
    os.kill(run_of(engine)[0], signal.SIGKILL)
    assert "killed by SIGKILL" in sites.reporter.wait_for("exception").reason


# -- abort -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("app", "how", "code"),
    [
        (app_of("Waiting"), "cooperative", 9),
        (app_of("Waiting", ignores=["abort"]), "killed", -signal.SIGKILL),
        (app_of("Frozen"), "killed", -signal.SIGKILL),
    ],
    ids=["one that listens", "one that does not", "one whose process was stopped"],
)
def test_an_abort_ends_the_process_and_reports_how(sites: Sites, app: bytes, how: str, code: int) -> None:
    engine = started(sites, app, abort_grace=3.0 if how == "cooperative" else 0.5, stop_grace=0.5)
    pid, run = run_of(engine)

    proof = engine.abort(JOB, "the operator wants it")

    assert is_gone(pid)
    assert marked(run) == []
    assert proof.message == "Abort signal has been sent to the client App."
    assert (proof.how, proof.exit_code) == (how, code)
    report = sites.reporter.wait_for("stopped")
    assert (report.how, report.exit_code, report.reason) == (how, code, "aborted: the operator wants it")
    assert engine.abort_app(JOB) == "Client app already stopped."


def test_an_abort_without_a_reason_ends_the_process_properly_too(sites: Sites) -> None:
    engine = started(sites, app_of("Waiting"), abort_grace=10.0)
    assert engine.abort(JOB, "").how == "cooperative"


def test_an_abort_by_sigterm_when_redis_does_not_reach_the_process(sites: Sites, tmp_path: Path) -> None:
    engine = started(sites, app_of("Waiting"), abort_grace=0.5, stop_grace=20.0)
    run = engine.processes.find(JOB)
    assert run is not None
    engine.processes.request_end = lambda *args: None
    proof = engine.abort(JOB)
    assert (proof.how, proof.exit_code) == ("terminated", 9)
    assert "it got SIGTERM" in (run.folder.path / "outcome.json").read_text()


@pytest.mark.parametrize("executor", ["Slow", "Waiting"])
def test_an_abort_while_the_job_is_starting_wins(sites: Sites, executor: str) -> None:
    parent = sites.parent_server()
    engine = sites.engine()
    deploy(engine, app_of(executor))
    engine.start_app(JOB, META)
    if executor == "Slow":
        sites.reporter.wait_for_line("making")
    pid, _ = run_of(engine)
    assert engine.abort_task(JOB) == "Client app is starting, please wait for started before abort_task."
    reply = parent.ask(AbortRequest, reason="too early")
    assert reply.meta["how"] == "terminated"
    assert reply.meta["message"] == "Abort signal has been sent to the client App."
    assert is_gone(pid)
    assert sites.reporter.wait_for("stopped").reason == "aborted: too early"


def test_an_abort_that_overtakes_the_start_wins(sites: Sites) -> None:
    parent = sites.parent_server()
    engine = sites.engine()
    deploy(engine, app_of("Waiting"))
    aborted = parent.ask(AbortRequest)
    assert (aborted.meta["message"], aborted.meta["how"]) == ("Client app has not started.", "not running")
    refused = parent.ask(StartRequest)
    assert (refused.rc, "aborted before it was started" in refused.error) == ("ERROR", True)
    # deployed again, it is a new run
    deploy(engine, app_of("Waiting"))
    assert parent.ask(StartRequest).ok


def test_an_aborted_task_gets_a_reply_and_the_job_continues(sites: Sites) -> None:
    engine = started(sites, app_of("Waiting"))
    info = engine.get_current_run_info(JOB)
    assert (info.current_task_name, info.status) == ("train", ClientStatus.STARTED)

    proof = engine.abort_current_task(JOB, "that one is wrong")

    assert (proof.message, proof.task) == ("Abort signal has been sent to the current task.", "train")
    assert proof.how == "cooperative"
    sites.reporter.wait_for_line("aborted: that one is wrong")
    assert engine.processes.status(JOB) in (ClientStatus.STARTED, ClientStatus.STOPPED)


def test_an_aborted_task_whose_work_goes_on_is_pending(sites: Sites) -> None:
    engine = started(sites, app_of("Waiting", ignores=["abort"]), abort_grace=0.3)
    proof = engine.abort_current_task(JOB)
    assert (proof.task, proof.how) == ("train", "pending")
    assert sites.reporter.statuses()[-1] == "started"


# -- messages ----------------------------------------------------------------------------------------------------------


def test_messages_are_passed_on_to_the_process_of_a_job(sites: Sites) -> None:
    engine = started(sites, app_of("Waiting"))
    _, run = run_of(engine)
    direct = engine.send_to_job(JOB, PingRun.CHANNEL, PingRun.TOPIC, {"run": run}, 20.0)
    assert (direct.rc, direct.meta) == ("OK", {"run": run, "task": "train"})
    to_other = engine.send_to_job(JOB, PingRun.CHANNEL, PingRun.TOPIC, {"run": "earlier"}, 20.0, optional=True)
    assert to_other.rc == "OTHER_RUN"
    assert engine.send_to_job(JOB, PingRun.CHANNEL, "odd", {"run": run}, 20.0).rc == "TOPIC_UNKNOWN"


# -- the end of the client parent --------------------------------------------------------------------------------------


def test_jobs_resume_when_the_client_parent_is_stopped_and_started_again(sites: Sites) -> None:
    engine = started(sites, app_of("Waiting"))
    pid, run = run_of(engine)
    sites.end_engine()
    assert is_gone(pid)
    assert sites.reporter.statuses() == ["starting", "started"]

    again = sites.engine()

    sites.reporter.wait_for_line("working", 2)
    wait_until(lambda: again.processes.status(JOB) is ClientStatus.STARTED)
    other_pid, other_run = run_of(again)
    assert (other_pid != pid, other_run != run) == (True, True)
    assert again.abort(JOB).how == "cooperative"
    assert is_gone(other_pid)
    wait_until(lambda: again.processes.records()[JOB].reported)
    # a report that was received is not sent again
    sites.end_engine()
    count = len(sites.reporter.reports)
    assert sites.engine().processes.status(JOB) is ClientStatus.STOPPED
    assert len(sites.reporter.reports) == count


def process_of(sites: Sites) -> dict[str, Any]:
    """The content of the job's ``process.json``."""
    return dict(json.loads((sites.folder / SITE_1 / JOB / "process.json").read_text()))


def begun(sites: Sites, app: bytes, **settings: Any) -> tuple[ServerParentCell, Child]:
    """Start a job at a site whose client parent is a process that can be killed."""
    parent = sites.parent_server()
    sites.server_job()
    child = sites.process(SITE_1, **settings)
    assert parent.ask(DeployRequest, app, app="app", meta=META).ok
    assert parent.ask(StartRequest).ok
    sites.reporter.wait_for_line("working")
    sites.reporter.wait_for("started")
    return parent, child


@pytest.mark.parametrize(
    "app",
    [app_of("Waiting", child=True), app_of("Waiting", ignores=["abort"])],
    ids=["one that listens", "one that does not"],
)
def test_no_process_outlives_a_client_parent_that_is_killed(sites: Sites, app: bytes) -> None:
    _, child = begun(sites, app)
    record = process_of(sites)
    assert not is_gone(record["pid"])
    child.kill()
    wait_until(lambda: is_gone(record["pid"]), 10, "the job's process ends by itself")


def test_a_job_resumes_after_its_client_parent_was_killed_and_leftovers_are_gone(sites: Sites) -> None:
    parent, child = begun(sites, app_of("Waiting", child=True))
    left = int(sites.reporter.wait_for_line("child").split()[1])
    earlier = process_of(sites)
    child.kill()

    sites.process()

    sites.reporter.wait_for_line("working", 2)
    assert is_gone(earlier["pid"])
    assert is_gone(left), "a process in a session of its own"
    wait_until(lambda: sites.reporter.statuses().count("started") == 2)
    reply = parent.ask(AbortRequest, reason="enough")
    assert (reply.meta["how"], reply.meta["exit_code"]) == ("cooperative", 9)
    assert is_gone(process_of(sites)["pid"])
    assert is_gone(int(sites.reporter.wait_for_line("child", 2).split()[1]))
    assert sites.reporter.wait_for("stopped").reason == "aborted: enough"


def test_a_frozen_process_is_killed_by_the_next_client_parent(sites: Sites) -> None:
    _, child = begun(sites, app_of("Frozen"), stop_grace=0.5)
    earlier = process_of(sites)
    child.kill()
    assert not is_gone(earlier["pid"])
    sites.process(stop_grace=0.5, restarts=0)
    sites.reporter.wait_for_line("working", 2)
    assert is_gone(earlier["pid"])
    child = process_of(sites)["pid"]
    os.kill(child, signal.SIGKILL)
    sites.reporter.wait_for("exception")


def test_an_unfinished_abort_is_completed_by_the_next_client_parent(sites: Sites) -> None:
    parent, child = begun(sites, app_of("Frozen"), abort_grace=60, stop_grace=0.5)
    replies: list[Reply] = []
    asked = parent.cell.ask(
        "site", AbortRequest.TOPIC, SITE_1, {"job": JOB, "reason": "enough"}, on_reply=replies.append
    )
    wait_until(lambda: process_of(sites)["abort"] == "enough")
    child.kill()
    sites.process(stop_grace=0.5)
    report = sites.reporter.wait_for("stopped")
    assert (report.how, report.reason) == ("killed", "aborted: enough")
    assert is_gone(process_of(sites)["pid"])
    # the request was still in the site's inbox
    wait_until(lambda: replies, 20)
    assert replies.pop().meta["how"] in ("killed", "not running")
    asked.cancel()


def test_the_server_may_abort_a_job_after_a_restart_of_its_site(sites: Sites) -> None:
    _, child = begun(sites, app_of("Waiting"))
    child.kill()
    sites.reporter.abort[JOB] = "it has ended meanwhile"
    sites.process()
    assert sites.reporter.wait_for("stopped").reason == "aborted: it has ended meanwhile"
    assert is_gone(process_of(sites)["pid"])


def test_an_end_that_the_server_has_not_recorded_is_reported_after_a_restart(sites: Sites) -> None:
    engine = sites.engine()
    deploy(engine, app_of("Refusing"))
    engine.start_app(JOB, META)
    wait_until(lambda: engine.processes.status(JOB) is ClientStatus.EXCEPTION, 20)
    sites.end_engine()
    assert process_of(sites)["reported"] is False
    record = process_of(sites)
    (sites.folder / SITE_1 / JOB / "process.json").write_text(json.dumps({**record, "run": "r1"}))

    sites.engine()
    sites.parent_server()

    wait_until(lambda: [report for report in sites.reporter.reports if report.run == "r1"], 20)
    wait_until(lambda: process_of(sites)["reported"] is True)


def test_a_workspace_has_one_client_parent(sites: Sites) -> None:
    sites.engine()
    other = ClientEngine(Site(name=SITE_1), sites.args())
    with pytest.raises(ConfigError, match=rf"process {os.getpid()} serves the workspace"):
        other.run()


def test_two_jobs_run_at_once(sites: Sites) -> None:
    sites.parent_server()
    servers = {job: sites.server_job(job) for job in ("a", "b")}
    engine = sites.engine()
    deploy(engine, app_of("Waiting"), "a")
    engine.start_app("a", META)
    sites.reporter.wait_for("started", "a")
    deploy(engine, app_of("Adding"), "b")
    engine.start_app("b", META)
    assert servers["b"].wait().status == COMPLETED
    assert sites.reporter.wait_for("stopped", "b").exit_code == 0
    assert engine.get_all_job_ids() == ["a"], "it has run all the time"
    assert engine.abort("a", "enough").how == "cooperative"


def test_a_client_parent_elsewhere_takes_the_site_over(sites: Sites, tmp_path: Path) -> None:
    engine = started(sites, app_of("Waiting"))
    pid, _ = run_of(engine)
    other = Sites(sites.url, tmp_path / "elsewhere", sites.namespace)
    try:
        other.engine(take_over=True)
        wait_until(lambda: is_gone(pid), 20, "the job's process of the one that was replaced")
        assert engine._stopping == "another process has taken over"
        assert engine.fenced
    finally:
        other.close()


def test_a_client_parent_is_stopped_while_redis_is_not_there(sites: Sites, tmp_path: Path) -> None:
    workspace = sites.workspace()
    engine = ClientEngine(Site(name=SITE_1), SiteArgs(workspace=workspace, redis_url=f"unix://{tmp_path}/nothing"))
    ended: list[str] = []
    thread = threading.Thread(target=lambda: ended.append(engine.run()))
    thread.start()
    wait_until(lambda: engine.cell is not None)
    engine.stop("enough")
    thread.join(20)
    assert ended == ["enough"]


def test_a_job_is_aborted_whose_process_does_not_reach_redis(sites: Sites, tmp_path: Path) -> None:
    engine = sites.engine(stop_grace=10.0)
    deploy(engine, app_of("Waiting"))
    engine.processes.connection["redis_url"] = f"unix://{tmp_path}/nothing"
    engine.start_app(JOB, META)
    pid, run = run_of(engine)
    proof = engine.abort(JOB)
    assert proof.how == "terminated"
    assert is_gone(pid)
    assert marked(run) == []


def test_of_two_starts_at_once_one_launches(sites: Sites) -> None:
    engine = sites.engine()
    deploy(engine, app_of("Waiting"))
    messages = together([partial(engine.start_app, JOB, META)] * 8)
    assert sorted(messages) == ["Client app already started."] * 7 + ["Start the client app..."]
    assert engine.get_all_job_ids() == [JOB]
    assert "abort it before" in engine.deploy_app("app", JOB, META, SITE_1, app_of("Adding"))
    assert "abort it before" in engine.delete_run(JOB)
    engine.abort(JOB)
    assert engine.delete_run(JOB).startswith("Delete run folder")


def test_a_job_that_was_deleted_while_its_site_was_away_is_aborted_and_removed(sites: Sites) -> None:
    parent = sites.parent_server()
    engine = sites.engine()
    deploy(engine, app_of("Waiting"), submission="first")
    engine.start_app(JOB, META)
    sites.reporter.wait_for("started")
    folder, request = sites.folder / SITE_1 / JOB, DeleteRunsRequest
    for deleted in (["other"], ["first"]):
        meta = request(jobs={JOB: deleted}).to_meta()
        assert parent.cell.send_request(request.CHANNEL, request.TOPIC, SITE_1, meta, timeout=30).ok
        assert engine.get_all_job_ids() == [JOB] or deleted == ["first"]
    wait_until(lambda: not folder.exists(), 30)
    assert sites.reporter.wait_for("stopped").reason == "aborted: the job was deleted"


def test_an_abort_does_not_wait_for_other_requests(sites: Sites) -> None:
    parent = sites.parent_server()
    engine = sites.engine(workers=1)
    deploy(engine, app_of("Waiting"))
    engine.start_app(JOB, META)
    busy, go = threading.Event(), threading.Event()

    class Slow:
        def deploy(self, *args: Any) -> str:
            busy.set()
            go.wait(30)
            return "too late"

    engine.add_component("app_deployer", Slow())
    parent.cell.ask(
        "site", DeployRequest.TOPIC, SITE_1, {"job": "b", "app": "app", "meta": META}, on_reply=lambda _: None
    )
    assert busy.wait(20)
    try:
        assert parent.ask(AbortRequest).meta["how"] in ("terminated", "cooperative")
    finally:
        go.set()


def test_a_process_leaves_no_arguments_behind(sites: Sites) -> None:
    started(sites, app_of("Waiting"))
    assert not (sites.folder / SITE_1 / JOB / "args.json").exists(), "the URL may have a password"


# -- agents ------------------------------------------------------------------------------------------------------------


AGENT = f"{SITE_1}--agent"
EXCHANGER = pack_files(
    {
        "config/config_fed_client.json": json.dumps(
            client_config("redflare_workers.ipc.exchanger.IPCExchanger", {"agent_heartbeat_interval": 0.2})
        ).encode()
    }
)


@pytest.fixture
def agent(sites: Sites) -> Iterator[Child]:
    """Start the agent of a job; return when it has taken a task."""
    sites.parent_server()
    sites.server_job()
    engine = sites.engine(abort_grace=2.0, stop_grace=0.5, restarts=0)
    assert engine.deploy_app("app", JOB, {**META, "agent_id": "agent"}, SITE_1, EXCHANGER) == ""
    engine.start_app(JOB, META)
    args = AgentArgs(url=sites.url, settings=load_settings(sites.folder / SITE_1), work=120.0)
    with Child(agent_program.main, args, sites.folder / "agent.log") as child:
        child.receive("started")
        child.send("serve")
        child.receive("task", 20)
        sites.reporter.wait_for("started")
        yield child


def test_an_abort_of_the_task_reaches_the_agent(sites: Sites, agent: Child) -> None:
    proof = sites.engines[0].abort_current_task(JOB)
    assert (proof.task, proof.how) == ("train", "cooperative")
    agent.receive("dropped", 20)


def test_an_abort_of_the_job_reaches_the_agent(sites: Sites, agent: Child) -> None:
    proof = sites.engines[0].abort(JOB)
    assert (proof.how, proof.exit_code) == ("cooperative", 9)
    assert proof.agents == {AGENT: "connected"}, "it was notified, and is still connected"
    agent.receive("dropped", 20)
    assert "bye" in agent.receive("closed", 20)[0]


def test_the_reply_to_an_abort_says_that_the_agent_has_left(sites: Sites, agent: Child) -> None:
    _, asked = sites.engines[0].begin_abort(JOB, "enough")
    agent.receive("closed", 20)
    agent.end()
    assert asked.result(20).agents == {AGENT: "left"}
    assert sites.reporter.wait_for("stopped").agents == {AGENT: "left"}


@pytest.mark.parametrize("late", [False, True], ids=["by the abort", "before the abort"])
def test_an_agent_is_notified_of_the_abort_of_a_process_that_was_killed(sites: Sites, agent: Child, late: bool) -> None:
    engine = sites.engines[0]
    pid, _ = run_of(engine)
    if late:
        os.kill(pid, signal.SIGKILL)
        sites.reporter.wait_for("exception")
        assert agent.received("dropped") == [], "another process of the job may come"
    else:
        os.kill(pid, signal.SIGSTOP)
    _, asked = engine.begin_abort(JOB, "enough")
    agent.receive("dropped", 20)
    assert "bye" in agent.receive("closed", 20)[0]
    agent.end()
    proof = asked.result(20)
    assert (proof.how, proof.agents) == ("not running" if late else "killed", {AGENT: "left"})
