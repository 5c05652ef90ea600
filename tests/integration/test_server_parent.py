"""The SP with real processes: jobs from submission to their end, aborts, kills, restarts."""

from __future__ import annotations

import os
import signal
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
from redflare_broker.embedded.server import EmbeddedServer
from redflare_broker.job_store.record import (
    ABNORMAL,
    ABORTED,
    APPROVED,
    CAN_NOT_SCHEDULE,
    COMPLETED,
    DISPATCHED,
    EXECUTION_EXCEPTION,
    FAILED_TO_RUN,
    RUNNING,
    SUBMITTED,
)
from redflare_workers.workspace.run_folder import RunFolder

from tests.support.federation.client_parents import CUSTOM, PATIENCE, Sites
from tests.support.federation.parents import Operation, averaging, job_of, operation_at, operation_of_its_own
from tests.support.link.processes import pause, resume
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")

#: A workflow that cannot be resumed.
ONCE = averaging(resume=False)


@pytest.fixture
def operation(shared_server: tuple[str, redis.Redis], tmp_path: Path, namespace: str) -> Iterator[Operation]:
    url, client = shared_server
    with operation_at(url, tmp_path, namespace, client) as made:
        yield made


# -- from submission to the end ----------------------------------------------------------------------------------------


def test_a_job_runs_from_submission_to_its_end(operation: Operation, tmp_path: Path) -> None:
    operation.engine("site-1")
    operation.engine("site-2")
    operation.server()
    operation.submit(job_of("Adding", averaging(3, 2), min_clients=2))

    record = operation.wait_for(COMPLETED)

    assert operation.history() == [SUBMITTED, APPROVED, DISPATCHED, RUNNING, COMPLETED]
    assert {site: (state.status, state.exit_code) for site, state in record.sites.items()} == {
        "site-1": ("stopped", 0),
        "site-2": ("stopped", 0),
    }
    operation.store.fetch_result("job-1", tmp_path / "result.zip")
    with zipfile.ZipFile(tmp_path / "result.zip") as result:
        names = set(result.namelist())
    assert {"meta.json", "log.txt", "models/FL_global_model.npz"} <= names
    assert "args.json" not in names, "it may hold a password"
    operation.wait_for_log("server: ")
    operation.wait_for_log("site-2: ")


def test_a_job_waits_for_its_sites_and_names_them(operation: Operation) -> None:
    operation.server()
    operation.engine("site-1")
    operation.submit(job_of("Adding", min_clients=2, mandatory_clients=["site-2"]))
    wait_until(lambda: operation.record().waiting is not None, PATIENCE)
    waiting = operation.record().waiting
    assert waiting is not None
    assert "site-2 (mandatory, never connected)" in waiting.reason
    operation.engine("site-2")
    assert operation.wait_for(COMPLETED).waiting is None


def test_a_workflow_that_asks_who_is_there_gets_a_site_that_takes_long_to_start(operation: Operation) -> None:
    slow = f"{CUSTOM}\nclass Slow(Adding):\n    def __init__(self, fifo):\n        super().__init__()\n"
    slow += "        print('importing', flush=True)\n        Path(fifo).read_text()\n"
    asking = "from redflare_workers.workflow import FedAvg\nclass Flow(FedAvg):\n"
    asking += "    def start_controller(self, fl_ctx):\n        super().start_controller(fl_ctx)\n"
    asking += "        there = sorted(each.name for each in fl_ctx.get_engine().get_clients())\n"
    asking += "        print('there:', *there, flush=True)\n"
    fifo = operation.folder / "go"
    os.mkfifo(fifo)
    operation.server()
    operation.engine("site-1")
    operation.engine("site-2")
    apps = {"quick": {"executor": "Adding"}, "slow": {"executor": "Slow", "fifo": str(fifo)}}
    where = {"quick": ["server", "site-1"], "slow": ["site-2"]}
    flow = {**averaging(1, 2), "path": "flow.Flow"}
    operation.submit(job_of(apps, flow, custom=slow, server_code=asking, deploy_map=where))
    operation.wait_for(RUNNING)
    operation.wait_for_log("site-2: importing")
    operation.wait_for_log("waiting for site-2 to join; begins without it in")
    assert "there:" not in operation.log()
    fifo.write_text("now")
    operation.wait_for(COMPLETED)
    assert "there: site-1 site-2" in operation.log()


#: Its workflow begins its round when two sites have joined.
FOR_TWO = """
import threading
from redflare_workers.workflow import FedAvg

class Flow(FedAvg):
    def control_flow(self, abort_signal, fl_ctx):
        while len(fl_ctx.get_engine().get_clients()) < 2 and not abort_signal.triggered:
            threading.Event().wait(0.05)
        super().control_flow(abort_signal, fl_ctx)
"""


def for_two(executor: str = "Adding", **meta: Any) -> tuple[dict[str, Any], bytes]:
    return job_of(executor, {**averaging(1, 2), "path": "flow.Flow"}, server_code=FOR_TWO, **meta)


def test_a_site_that_connects_while_a_job_for_all_runs_joins_it(operation: Operation) -> None:
    operation.server()
    operation.engine("site-1")
    operation.submit(for_two())
    operation.wait_for(RUNNING)
    operation.engine("site-2")
    record = operation.wait_for(COMPLETED)
    assert {site: (state.status, state.exit_code) for site, state in record.sites.items()} == {
        "site-1": ("stopped", 0),
        "site-2": ("stopped", 0),
    }
    operation.wait_for_log("joining while the job runs: site-2")


def test_the_next_server_knows_a_site_that_has_joined_late(operation: Operation) -> None:
    server = operation.server()
    operation.engine("site-1")
    operation.submit(for_two("Waiting"))
    operation.wait_for(RUNNING)
    operation.engine("site-2")
    operation.wait_for_log("site-2: working")
    server.kill()
    operation.server()
    operation.store.request_abort("job-1", "ann")
    assert "site-1, site-2" in operation.wait_for(ABORTED).reason


def test_a_site_that_was_not_told_to_start_when_the_server_died_is_told_by_the_next(operation: Operation) -> None:
    server = operation.server()
    operation.engine("site-1")
    operation.submit(for_two())
    operation.wait_for(RUNNING)
    server.kill()
    operation.engine("site-2")
    # as the dead server had left it
    folder = RunFolder(operation.folder / "server", "job-1")
    replace(operation.state(), sites=("site-1", "site-2")).write(folder)
    operation.store.set_site("job-1", "site-2", "deploying")
    operation.server()
    operation.wait_for(COMPLETED)


def test_a_job_whose_archive_is_gone_goes_on_without_a_site_that_connects_late(operation: Operation) -> None:
    operation.server()
    operation.engine("site-1")
    operation.submit(for_two())
    operation.wait_for(RUNNING)
    for key in operation.client.scan_iter(f"{operation.namespace}:*archive*", 1000):
        operation.client.delete(key)
    operation.engine("site-2")
    wait_until(lambda: "site-2" in operation.record().sites, PATIENCE)
    wait_until(lambda: operation.record().sites["site-2"].status == "exception", PATIENCE)
    assert operation.record().sites["site-2"].reason.startswith("the server cannot deploy it: ")
    operation.store.request_abort("job-1", "ann")
    operation.wait_for(ABORTED)


def test_two_jobs_run_at_once_on_the_same_sites(operation: Operation) -> None:
    operation.server()
    operation.engine("site-1")
    operation.submit(job_of("Waiting"), "one")
    operation.wait_for(RUNNING, "one")
    operation.submit(job_of("Adding"), "two")
    operation.wait_for(COMPLETED, "two")
    assert operation.record("one").status == RUNNING
    operation.store.request_abort("one", "ann")
    operation.wait_for(ABORTED, "one")


def test_two_jobs_whose_executors_name_the_same_agent_run_one_after_the_other(operation: Operation) -> None:
    custom = f"{CUSTOM}\nclass OfAgent(Waiting):\n    def __init__(self, agent_id):\n        super().__init__()\n"
    job = job_of({"app": {"executor": "OfAgent", "agent_id": "trainer"}}, custom=custom)
    operation.server()
    operation.engine("site-1")
    operation.submit(job, "one")
    assert operation.wait_for(RUNNING, "one").agents == {"app": ("trainer",)}
    operation.submit(job, "two")
    wait_until(lambda: operation.record("two").waiting, PATIENCE)
    assert "agent trainer of site-1 is busy with job one" in str(operation.record("two").waiting)
    for job_id in ("one", "two"):
        operation.store.request_abort(job_id, "ann")
        operation.wait_for(ABORTED, job_id)


def test_jobs_share_the_resources_of_a_site(operation: Operation) -> None:
    operation.server()
    operation.engine("site-1", resources={"gpu": 1})
    gpu = {"@ALL": {"gpu": 1}}
    operation.submit(job_of("Waiting", resource_spec=gpu), "one")
    operation.wait_for(RUNNING, "one")
    operation.submit(job_of("Adding", resource_spec=gpu), "two")
    wait_until(lambda: operation.record("two").waiting, PATIENCE)
    assert "site-1 has 0 of 1 gpu free" in str(operation.record("two").waiting)
    operation.store.request_abort("one", "ann")
    operation.wait_for(COMPLETED, "two")


def test_several_workflows_run_one_after_the_other(operation: Operation) -> None:
    operation.server()
    operation.engine("site-1")
    operation.submit(job_of("Adding", averaging(2), averaging(3, save_dir="more")))
    operation.wait_for(COMPLETED)
    assert "round 3 of 3" in operation.log()


def test_a_deleted_job_leaves_no_folder(operation: Operation) -> None:
    operation.server()
    operation.engine("site-1")
    operation.submit(job_of())
    operation.wait_for(COMPLETED)
    folders = [operation.folder / name / "job-1" for name in ("server", "site-1")]
    assert all(folder.is_dir() for folder in folders)
    operation.store.delete("job-1")
    wait_until(lambda: not any(folder.exists() for folder in folders), PATIENCE)


def test_a_site_that_was_away_when_a_job_was_deleted_removes_its_folder_when_it_is_back(operation: Operation) -> None:
    operation.server()
    operation.engine("site-1")
    operation.submit(job_of())
    operation.wait_for(COMPLETED)
    operation.end_engine()
    operation.store.delete("job-1")
    here, there = (operation.folder / name / "job-1" for name in ("server", "site-1"))
    wait_until(lambda: not here.exists(), PATIENCE)
    assert there.is_dir()
    # as after a long time
    operation.client.delete(f"{operation.namespace}:{{site-1}}:inbox:server")
    operation.engine("site-1")
    wait_until(lambda: not there.exists(), PATIENCE)


def test_no_folder_is_removed_because_redis_has_lost_everything(operation: Operation) -> None:
    server = operation.server()
    operation.engine("site-1")
    operation.submit(job_of())
    operation.wait_for(COMPLETED)
    operation.end_engine()
    server.kill()
    for key in operation.client.scan_iter(f"{operation.namespace}:*", 1000):
        operation.client.delete(key)
    operation.server()
    operation.engine("site-1")
    operation.submit(job_of(), "job-2")
    operation.wait_for(COMPLETED, "job-2")
    assert all((operation.folder / name / "job-1").is_dir() for name in ("server", "site-1"))


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_a_job_that_the_server_does_not_allow_is_rejected_before_it_reaches_any_site(operation: Operation) -> None:
    operation.server(allow_custom=False)
    operation.engine("site-1")
    code = "raise RuntimeError('imported')\nclass Flow(Controller): pass\n"
    operation.submit(job_of("Adding", {"path": "flow.Flow", "args": {}}, server_code=code))
    record = operation.wait_for(CAN_NOT_SCHEDULE)
    assert "flow.Flow is code that the job brings (custom/)" in record.reason
    assert record.reason.startswith("the server rejected the job:")
    assert not (operation.folder / "site-1" / "job-1").exists()


def test_a_job_that_its_site_does_not_allow_fails_to_run(operation: Operation) -> None:
    operation.server()
    operation.engine("site-1", allow_custom=False)
    operation.submit(job_of())
    record = operation.wait_for(FAILED_TO_RUN)
    assert "too few sites left, 0 of at least 1: site-1: " in record.reason
    assert "mine.Adding is code that the job brings" in record.reason


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_a_site_whose_code_cannot_be_imported_ends_a_job_that_needs_it(operation: Operation) -> None:
    operation.server()
    operation.engine("site-1")
    operation.submit(job_of("Adding", custom=f"{CUSTOM}\nraise RuntimeError('no such device')"))
    record = operation.wait_for(EXECUTION_EXCEPTION)
    assert "site-1: " in record.reason
    assert "no such device" in record.reason
    assert record.sites["site-1"].exit_code == 101


def test_a_job_continues_without_a_site_that_it_does_not_need(operation: Operation) -> None:
    operation.server()
    operation.engine("site-1")
    operation.engine("site-2")
    apps = {"good": {"executor": "Adding"}, "bad": {"executor": "Refusing"}}
    where = {"good": ["server", "site-1"], "bad": ["site-2"]}
    operation.submit(job_of(apps, averaging(2, 1), deploy_map=where))
    record = operation.wait_for(COMPLETED)
    assert record.sites["site-1"].status == "stopped"
    assert record.sites["site-2"].status == "exception"
    assert "no such device" in record.sites["site-2"].reason


def test_a_workflow_that_cannot_be_imported(operation: Operation) -> None:
    operation.server()
    operation.engine("site-1")
    job = job_of(
        "Adding",
        {"path": "flow.Flow", "args": {}},
        server_code="raise RuntimeError('no such module')\nclass Flow(Controller): pass\n",
    )
    operation.submit(job)
    record = operation.wait_for(EXECUTION_EXCEPTION)
    assert "module flow cannot be imported: RuntimeError: no such module" in record.reason


def test_a_workflow_that_raises(operation: Operation) -> None:
    operation.server()
    operation.engine("site-1")
    code = "from redflare_workers.workflow import Controller\nclass Flow(Controller):\n"
    code += "    def start_controller(self, fl_ctx): pass\n    def stop_controller(self, fl_ctx): pass\n"
    code += "    def control_flow(self, abort_signal, fl_ctx): raise ArithmeticError('one too many')\n"
    operation.submit(job_of("Adding", {"path": "flow.Flow", "args": {}}, server_code=code))
    record = operation.wait_for(EXECUTION_EXCEPTION)
    assert "ArithmeticError: one too many" in record.reason


def test_the_jobs_server_is_killed_and_resumes(operation: Operation) -> None:
    operation.server()
    operation.engine("site-1")
    operation.submit(job_of("Adding", averaging(200)))
    operation.wait_for_log("round 3 of 200")
    os.kill(operation.state().pid, signal.SIGKILL)
    operation.wait_for(COMPLETED)
    log = operation.log()
    assert "killed by SIGKILL); restart 1 of 3" in log
    assert log.count("round 2 of 200") == 1, "it went on where it was"


def test_the_jobs_server_is_killed_and_cannot_resume(operation: Operation) -> None:
    operation.server()
    operation.engine("site-1")
    operation.submit(job_of("Waiting", ONCE))
    operation.wait_for_log("working")
    os.kill(operation.state().pid, signal.SIGKILL)
    record = operation.wait_for(EXECUTION_EXCEPTION)
    assert record.reason.startswith("the job's server died (killed by SIGKILL)")
    assert record.sites["site-1"].status == "stopped"


# -- aborts ------------------------------------------------------------------------------------------------------------


def test_an_abort_before_the_server_is_there(operation: Operation) -> None:
    operation.submit(job_of())
    operation.store.request_abort("job-1", "ann", "a mistake")
    assert operation.wait_for(ABORTED).reason == "a mistake"
    operation.engine("site-1")
    operation.server()
    assert operation.history() == [SUBMITTED, ABORTED]


def test_an_abort_while_a_job_waits_for_sites(operation: Operation) -> None:
    operation.server()
    operation.submit(job_of())
    operation.wait_for(APPROVED)
    operation.store.request_abort("job-1", "ann")
    assert operation.wait_for(ABORTED)


def test_an_abort_while_a_job_is_being_dispatched(operation: Operation) -> None:
    operation.server()
    site = operation.process("site-1")
    wait_until(lambda: operation.client.exists(f"{operation.namespace}:{{server}}:heartbeat:site-1"), PATIENCE)
    pause(site)
    operation.submit(job_of("Waiting"))
    operation.wait_for(DISPATCHED)
    operation.store.request_abort("job-1", "ann", "too slow")
    # its heartbeat has expired: the server does not wait for its reply
    record = operation.wait_for(ABORTED)
    assert "no reply from site-1" in record.reason
    resume(site)


def test_an_abort_of_a_running_job_is_confirmed_by_all(operation: Operation) -> None:
    operation.server()
    operation.engine("site-1")
    operation.engine("site-2")
    operation.submit(job_of("Waiting", averaging(2, 2), min_clients=2))
    operation.wait_for_log("working", count=2)
    operation.store.request_abort("job-1", "ann", "a better idea")
    record = operation.wait_for(ABORTED)
    assert record.reason.startswith("aborted by ann: a better idea; confirmed: cooperative at server, site-1, site-2")
    assert {site: (each.status, each.how) for site, each in record.sites.items()} == {
        "site-1": ("stopped", "cooperative"),
        "site-2": ("stopped", "cooperative"),
    }


def test_an_abort_of_a_job_whose_site_is_disconnected(operation: Operation) -> None:
    operation.server()
    operation.engine("site-1", abort_grace=1.0, stop_grace=1.0)
    operation.submit(job_of("Frozen"))
    operation.wait_for_log("working")
    operation.store.request_abort("job-1", "ann")
    record = operation.wait_for(ABORTED)
    assert "killed at site-1" in record.reason


def test_a_job_whose_server_is_terminated_by_others_leaves_nothing_at_its_sites(operation: Operation) -> None:
    engine = operation.engine("site-1", abort_grace=0.5, stop_grace=0.5)
    operation.server(abort_grace=0.5, stop_grace=0.5)
    operation.submit(job_of("Waiting", averaging(), args={"ignores": ["abort"]}))
    operation.wait_for_log("working")
    operation.wait_for(RUNNING)

    os.kill(operation.state().pid, signal.SIGTERM)

    operation.wait_for(ABORTED)
    assert engine.get_all_job_ids() == []
    operation.assert_nothing_is_left()


def test_an_abort_while_a_sites_process_starts(operation: Operation) -> None:
    operation.server()
    operation.engine("site-1")
    operation.submit(job_of("Slow"))
    operation.wait_for_log("making")
    operation.store.request_abort("job-1", "ann")
    assert operation.wait_for(ABORTED).sites["site-1"].status == "stopped"


# -- the server ends ---------------------------------------------------------------------------------------------------


def test_the_server_is_killed_and_the_next_one_resumes(operation: Operation) -> None:
    server = operation.server()
    operation.engine("site-1")
    operation.submit(job_of("Adding", averaging(300)))
    operation.wait_for_log("round 3 of 300")
    server.kill()
    operation.server()
    operation.wait_for(COMPLETED)
    assert operation.log().count("round 2 of 300") == 1


def test_the_server_is_stopped_and_the_next_one_resumes(operation: Operation) -> None:
    server = operation.server()
    operation.engine("site-1")
    operation.submit(job_of("Adding", averaging(300)))
    operation.wait_for_log("round 3 of 300")
    server.send("stop")
    server.receive("ended", PATIENCE)
    assert not [command for command in operation.processes() if "server.job.job_main" in command]
    assert operation.record().status == RUNNING
    operation.server()
    operation.wait_for(COMPLETED)


def test_a_server_on_another_machine_takes_over(operation: Operation) -> None:
    first = operation.server()
    operation.engine("site-1")
    operation.submit(job_of("Adding", averaging(300)))
    operation.wait_for_log("round 3 of 300")
    operation.server("other", take_over=True)
    assert first.receive("ended", PATIENCE) == ("another server has taken over",)
    operation.wait_for(COMPLETED)
    assert operation.log().count("round 2 of 300") == 1


def test_redis_loses_a_running_job_which_operators_abort(tmp_path: Path) -> None:
    with operation_of_its_own(tmp_path) as operation:
        operation.server()
        operation.engine("site-1")
        operation.submit(job_of("Adding", averaging(10_000)))
        operation.wait_for_log("round 3 of 10000")
        before = operation.record()
        operation.client.flushall()
        wait_until(lambda: operation.store.get("job-1") is not None, PATIENCE, "the record is written again")
        after = operation.record()
        assert (after.status, after.submission, after.submitter) == (RUNNING, before.submission, "ann")
        operation.store.request_abort("job-1", "ann", "enough")
        record = operation.wait_for(ABORTED)
        assert "aborted by ann: enough" in record.reason
        assert record.result is not None


def test_redis_loses_a_running_job_whose_id_is_then_given_to_another(tmp_path: Path) -> None:
    with operation_of_its_own(tmp_path) as operation:
        server = operation.server()
        operation.engine("site-1")
        operation.submit(job_of("Adding", averaging(10_000)))
        operation.wait_for_log("round 3 of 10000")
        # so that it is not written again before the other one is there
        pause(server)
        operation.client.flushall()
        operation.submit(job_of("Adding", averaging(2), name="other"))
        resume(server)
        record = operation.wait_for(COMPLETED)
        assert (record.name, operation.history()[-1]) == ("other", COMPLETED)
        assert "of 10000" not in operation.log()


def test_the_server_is_stopped_while_redis_is_away(tmp_path: Path) -> None:
    with EmbeddedServer() as redis_server, redis.Redis.from_url(redis_server.url) as client:
        operation = Operation(redis_server.url, tmp_path, "flare", client)
        server = operation.server()
        operation.engine("site-1")
        operation.submit(job_of("Waiting"))
        operation.wait_for_log("working")
        redis_server.stop()
        server.send("stop")
        server.receive("ended", PATIENCE)
        wait_until(
            lambda: not [command for command in operation.processes() if "server.job.job_main" in command], PATIENCE
        )
        Sites.close(operation)


def test_the_server_is_killed_and_the_job_cannot_resume(operation: Operation) -> None:
    server = operation.server()
    operation.engine("site-1")
    operation.submit(job_of("Waiting", ONCE))
    operation.wait_for_log("working")
    server.kill()
    operation.server()
    record = operation.wait_for(ABNORMAL)
    assert "its workflow cannot resume" in record.reason


def test_the_server_is_killed_while_a_job_is_being_dispatched(operation: Operation) -> None:
    server = operation.server()
    site = operation.process("site-1")
    wait_until(lambda: operation.client.exists(f"{operation.namespace}:{{server}}:heartbeat:site-1"), PATIENCE)
    pause(site)
    operation.submit(job_of())
    operation.wait_for(DISPATCHED)
    server.kill()
    resume(site)
    operation.server()
    operation.wait_for(COMPLETED)


def test_an_abort_while_the_server_is_away(operation: Operation) -> None:
    server = operation.server()
    operation.engine("site-1")
    operation.submit(job_of("Waiting"))
    operation.wait_for_log("working")
    server.kill()
    operation.store.request_abort("job-1", "ann", "enough")
    operation.server()
    assert operation.wait_for(ABORTED).reason.startswith("aborted by ann: enough")


def test_a_site_is_started_again_while_a_job_runs(operation: Operation) -> None:
    operation.server()
    site = operation.process("site-1")
    operation.submit(job_of("Adding", averaging(300)))
    operation.wait_for_log("round 3 of 300")
    site.kill()
    operation.process("site-1")
    operation.wait_for(COMPLETED)
