"""``redflare job`` over the job store: submit, list, show, log, abort, download, delete, and the completion of ids."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redflare_broker.job_store.record import (
    APPROVED,
    CAN_NOT_SCHEDULE,
    COMPLETED,
    DISPATCHED,
    EXECUTION_EXCEPTION,
    RUNNING,
    SUBMITTED,
)
from redflare_broker.job_store.store import JobStore
from redflare_broker.keys import Keys
from redflare_broker.transport.server import Server
from redflare_workers.ipc.exchanger import IPCExchanger
from redflare_workers.jobs import FedJob
from redflare_workers.workflow import FedAvg

from tests.support.job.live_bench import LiveJobBench
from tests.support.process.cli import Cli


@pytest.fixture
def store(cli: Cli) -> Iterator[JobStore]:
    with Server.connect(client=cli.client) as server:
        yield JobStore(server, Keys().store())


@pytest.fixture
def job(tmp_path: Path) -> Path:
    made = FedJob("means", min_clients=2, mandatory_clients=["site-1"], agent_id="trainer")
    made.to_server(FedJob.component(FedAvg, initial_model={"w": [0.0]}, min_clients=2, num_rounds=3))
    made.to_clients(IPCExchanger, tasks=["train"])
    made.export(tmp_path / "means")
    return tmp_path / "means"


def advanced(store: JobStore, job_id: str, to: str = RUNNING) -> None:
    """Change the status of a job, as the server does."""
    for status in (APPROVED, DISPATCHED, RUNNING, COMPLETED):
        assert store.advance(job_id, [SUBMITTED, APPROVED, DISPATCHED, RUNNING], status, f"now {status.lower()}")
        if status == to:
            return


def packed(**files: str) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, text in files.items():
            archive.writestr(name.replace("__", "/"), text)
    return target.getvalue()


def test_a_job_is_submitted_and_its_id_printed(cli: Cli, store: JobStore, job: Path) -> None:
    submitted = cli("job", "submit", str(job))

    job_id = submitted.stdout.strip()
    assert submitted.exit_code == 0
    assert "server 'server' is not running" in submitted.stderr
    record = store.get(job_id)
    assert record is not None
    assert (record.name, record.status, record.meta["mandatory_clients"]) == ("means", SUBMITTED, ["site-1"])
    assert cli.json("job", "submit", str(job), "--id", "monday")["id"] == "monday"
    assert cli("job", "submit", str(job), "--id", "monday").exit_code == 0


def test_another_job_under_a_taken_id_is_wrong_usage(cli: Cli, store: JobStore, job: Path) -> None:
    store.submit({"name": "other"}, packed(a="b"), "monday")

    refused = cli("job", "submit", str(job), "--id", "monday")

    assert refused.exit_code == 2
    assert "has another meta or archive" in refused.stderr


def test_the_same_job_under_the_id_of_one_that_is_over_does_not_run_and_says_so(
    cli: Cli, store: JobStore, job: Path
) -> None:
    cli("job", "submit", str(job), "--id", "monday")
    advanced(store, "monday", COMPLETED)

    again = cli("job", "submit", str(job), "--id", "monday")

    assert (again.exit_code, again.stdout) == (0, "monday\n")
    assert "job monday is over and does not run again: FINISHED:COMPLETED" in again.stderr
    assert "server" not in again.stderr


def test_a_file_that_is_no_archive_is_named(cli: Cli, store: JobStore, tmp_path: Path) -> None:
    (tmp_path / "trainer.py").write_text("initial_model = {}")

    refused = cli("job", "submit", str(tmp_path / "trainer.py"))

    assert refused.exit_code == 2
    assert f"{tmp_path / 'trainer.py'}: this is not a zip archive" in refused.stderr


def test_a_check_submits_nothing_and_all_errors_are_reported_together(cli: Cli, store: JobStore, job: Path) -> None:
    assert cli("job", "submit", str(job), "--check").stdout == "means: no errors\n"
    config = json.loads((job / "meta.json").read_text())
    (job / "meta.json").write_text(json.dumps({**config, "name": "", "min_clients": "two"}))

    wrong = cli("job", "submit", str(job))

    assert wrong.exit_code == 2
    assert "meta.json: name" in wrong.stderr
    assert "meta.json: min_clients" in wrong.stderr
    assert len(cli.json("job", "submit", str(job))["problems"]) == 2
    assert cli("job", "submit", str(job.parent / "nowhere")).exit_code == 1
    assert store.list() == []


def test_jobs_are_listed_with_why_they_wait(cli: Cli, store: JobStore) -> None:
    for name in ("early", "late"):
        store.submit({"name": name}, packed(a=name), name)
    advanced(store, "late", COMPLETED)

    listed = cli("job", "list")

    assert re.search(r"early +SUBMITTED.* no server is running", listed.stdout)
    assert re.search(r"late +COMPLETED", listed.stdout)
    assert [each["job_id"] for each in cli.json("job", "list", "--open")] == ["early"]
    assert cli.json("job", "list")[1]["record"]["status"] == COMPLETED


def test_status_shows_jobs_that_have_not_begun_with_what_they_wait_for(cli: Cli, store: JobStore) -> None:
    for name in ("early", "late", "over"):
        store.submit({"name": name}, packed(a=name), name)
    advanced(store, "late", APPROVED)
    advanced(store, "over", COMPLETED)

    shown = cli("status", columns=200)

    assert shown.exit_code == 0
    assert re.search(
        r"(?m)^job early  SUBMITTED for .* s: no server is running: start `redflare server` *$", shown.stdout
    )
    assert re.search(r"(?m)^job late  APPROVED for .* s: no server is running", shown.stdout)
    assert re.search(r"(?m)^1 finished: 1 COMPLETED, last over .* ago *$", shown.stdout)
    assert [job["record"]["status"] for job in cli.json("status")["jobs"]] == [SUBMITTED, APPROVED, COMPLETED]


def test_a_server_that_is_not_known_is_told(cli: Cli, store: JobStore, job: Path) -> None:
    store.submit({"name": "one"}, packed(a="one"), "job-1")

    listed = cli("job", "list", "--server", "servr")

    assert "no server 'servr' is known in namespace 'flare'; did you mean 'server'? (known are server)" in listed.stderr
    assert "no server" in cli("job", "show", "job-1", "--server", "hub").stderr
    assert "`redflare job list --server hub` shows all jobs" in cli("job", "log", "job-1", "--server", "hub").stderr
    assert "waits for `redflare server --name hub`" in cli("job", "submit", str(job), "--server", "hub").stderr
    assert cli("job", "list", "--server", "hub").stderr == ""


def test_patience_is_the_most_that_an_attempt_takes(cli: Cli) -> None:
    for patience in ("1", "60", "0"):
        cli("job", "list", "--patience", patience)

    assert [options.connect_timeout for _, options in cli.connections] == [1.0, 5.0, 5.0]
    assert [options.socket_timeout for _, options in cli.connections] == [1.0, 5.0, 5.0]


def test_status_shows_the_jobs_of_every_server(cli: Cli, store: JobStore) -> None:
    with Server.connect(client=cli.client) as server:
        JobStore(server, Keys().store("hub")).submit({"name": "far"}, packed(a="far"), "far")

    assert re.search(r"(?m)^job hub\.far  SUBMITTED for", cli("status", columns=200).stdout)


def test_status_does_not_count_a_job_that_was_deleted(cli: Cli, store: JobStore) -> None:
    store.submit({"name": "one"}, packed(a="one"), "job-1")
    with Server.connect(client=cli.client) as server, server.borrow("any") as connection:
        bench = LiveJobBench(server, connection)
        bench.run_server()
        bench.membership.end(connection, bench.lease, COMPLETED, COMPLETED)
    advanced(store, "job-1", COMPLETED)
    assert "1 finished" in cli("status").stdout

    store.delete("job-1")

    assert "finished" not in cli("status").stdout
    assert cli.json("status")["jobs"] == cli.json("job", "list") == []


def test_a_job_is_shown_with_its_history_and_its_sites_by_a_prefix_of_its_id(cli: Cli, store: JobStore) -> None:
    meta = {"name": "means", "min_clients": 2, "mandatory_clients": ["site-1"], "agent_id": "trainer"}
    store.submit(meta, packed(a="b"), "monday", submitter="ann@gpu-1")
    advanced(store, "monday")
    store.set_site("monday", "site-1", "stopped", exit_code=101, reason="its code raised")

    shown = cli("job", "show", "mon", columns=120).stdout

    for line in (
        r"^job means monday  RUNNING for ",
        r"submitted +20.* by ann@gpu-1",
        r"min_clients 2; mandatory_clients site-1; agent trainer at each site",
        r"APPROVED +by server: now approved",
        r"site-1 +stopped .* 101 +its code raised",
    ):
        assert re.search(line, shown, re.MULTILINE), f"{line!r} is not in\n{shown}"
    assert cli.json("job", "show", "server.monday")[0]["record"]["sites"]["site-1"]["exit_code"] == 101


def test_an_agent_that_had_to_be_killed_is_shown_beside_how_its_site_ended(cli: Cli, store: JobStore) -> None:
    store.submit({"name": "means"}, packed(a="b"), "monday")
    advanced(store, "monday")
    agents = {"site-1--trainer": "killed", "site-1--other": "left"}
    store.set_site("monday", "site-1", "stopped", reason="aborted", how="cooperative", agents=agents)

    assert "cooperative, agent site-1--trainer killed: aborted" in cli("job", "show", "monday", columns=160).stdout
    assert cli.json("job", "show", "monday")[0]["record"]["sites"]["site-1"]["agents"] == agents


def test_a_reason_of_several_lines_is_shown_whole_by_each_command(cli: Cli, store: JobStore) -> None:
    reason = "the server rejected the job:\n  app/config.json: workflows[0]: its class is unknown\n  meta.json: name"
    store.submit({"name": "means"}, packed(a="b"), "monday")
    store.advance("monday", SUBMITTED, CAN_NOT_SCHEDULE, reason)

    joined = "the server rejected the job: app/config.json: workflows[0]: its class is unknown; meta.json: name"
    for command in ("list", "log", "abort"):
        shown = cli("job", command, *["monday"] * (command != "list"), columns=240).stdout
        assert joined in shown, shown
    lines = [" ".join(line.split()) for line in cli("job", "show", "monday", columns=240).stdout.splitlines()]
    at = lines.index("reason the server rejected the job:")
    assert lines[at + 1 : at + 3] == ["app/config.json: workflows[0]: its class is unknown", "meta.json: name"]


def test_the_reason_of_the_end_is_shown_once_and_not_for_each_site(cli: Cli, store: JobStore) -> None:
    store.submit({"name": "means"}, packed(a="b"), "monday")
    advanced(store, "monday")
    store.advance("monday", RUNNING, EXECUTION_EXCEPTION, "round 1 has no results\nthe end of its log:\nERROR")
    store.set_site("monday", "site-1", "stopped", reason=f"{EXECUTION_EXCEPTION}: round 1 has no results")
    store.set_site("monday", "site-2", "exception", reason="its code raised")

    shown = cli("job", "show", "monday").stdout

    assert shown.count("round 1 has no results") == 1
    assert re.search(r"site-1 +stopped .* FINISHED:EXECUTION_EXCEPTION *$", shown, re.MULTILINE)
    assert re.search(r"site-2 +exception .* its code raised *$", shown, re.MULTILINE)


def test_the_end_of_a_log_behind_a_reason_is_shown_by_job_show_only(cli: Cli, store: JobStore) -> None:
    store.submit({"name": "means"}, packed(a="b"), "monday")
    store.advance("monday", SUBMITTED, CAN_NOT_SCHEDULE, "it died\nthe end of its log:\nTraceback")

    assert "Traceback" in cli("job", "show", "monday").stdout
    for command in ("list", "log", "abort"):
        shown = cli("job", command, *["monday"] * (command != "list")).stdout
        assert "it died" in shown
        assert "Traceback" not in shown


def test_an_ambiguous_prefix_of_an_id_is_wrong_usage(cli: Cli, store: JobStore) -> None:
    for name in ("mon-1", "mon-2"):
        store.submit({"name": name}, packed(a=name), name)

    assert cli("job", "log", "mon").exit_code == 2
    assert "mon-1, mon-2" in cli("job", "log", "mon").stderr
    assert cli("job", "log", "tue").exit_code == 1


def test_the_log_is_printed_by_site_and_from_its_end(cli: Cli, store: JobStore) -> None:
    store.submit({"name": "means"}, packed(a="b"), "monday")
    store.append_log("monday", "site-1", ["one", "two"])
    store.append_log("monday", "site-2", ["three [not markup]"])

    assert re.search(
        r"site-1 +one\n.*site-1 +two\n.*site-2 +three \[not markup\]\n$", cli("job", "log", "monday").stdout
    )
    assert "three" not in cli("job", "log", "monday", "--site", "site-1").stdout
    assert cli("job", "log", "monday", "--site", "site-1").stderr == ""
    mistyped = cli("job", "log", "monday", "--site", "site1", "--site", "site-1")
    assert "there are no lines of site1; there are some of site-1, site-2" in mistyped.stderr
    last = cli("job", "log", "monday", "--lines", "1", "--json").stdout
    assert json.loads(last)["text"] == "three [not markup]"


def test_lines_of_the_log_fit_eighty_columns_with_time_site_level_and_text(cli: Cli, store: JobStore) -> None:
    store.submit({"name": "means"}, packed(a="b"), "monday")
    said = "[identity=site-1, run=monday, task_name=train]: " + "a text of many words that goes on " * 4
    store.append_log("monday", "site-1", [said], level="WARNING")
    store.append_log(
        "monday", "a-site-of-a-long-name-indeed", ["boom\n12:00:00 server     INFO  forged"], level="ERROR"
    )

    lines = [line.rstrip() for line in cli("job", "log", "monday").stdout.splitlines()]

    assert re.fullmatch(r"\d\d:\d\d:\d\d -                SUBMITTED", lines[0])
    assert re.fullmatch(r"\d\d:\d\d:\d\d site-1     WARN  a text of many words that goes on a text of .*", lines[1])
    assert re.match(r" {26}\w", lines[2])
    assert re.fullmatch(r"\d\d:\d\d:\d\d a-site-of-a-long-na… ERROR boom", lines[-2])
    assert lines[-1] == " " * 36 + "12:00:00 server     INFO  forged"
    assert max(map(len, lines)) <= 80


def test_a_list_in_a_file_or_a_pipe_is_not_cut(cli: Cli, store: JobStore) -> None:
    why = "a reason of several lines and many words, " * 10 + "and an end"
    store.submit({"name": "a long name of a job, and then some"}, packed(a="c"), "2025-a-long-id-that-was-chosen")
    store.advance("2025-a-long-id-that-was-chosen", SUBMITTED, CAN_NOT_SCHEDULE, why)
    store.submit({"name": "b"}, packed(a="d"), "short")

    lines = cli("job", "list", COLUMNS=None).stdout.splitlines()

    assert len(lines) == 2 + 2
    (line,) = [each for each in lines if why in each]
    assert line.startswith("2025-a-long-id-that-was-chosen  a long name of a job, and then some  ")
    assert max(map(len, lines)) < 600


def test_a_list_has_one_line_for_each_job(cli: Cli, store: JobStore) -> None:
    made_up = store.submit({"name": "means"}, packed(a="b"))
    other = store.submit({"name": "a long name of a job, and then some"}, packed(a="c"))
    store.submit({"name": "c"}, packed(a="d"), "2025-a-long-id-of-a-job-that-was-chosen")
    store.advance(other, SUBMITTED, CAN_NOT_SCHEDULE, "a reason of\n  several lines\n  and many words " * 5)

    lines = cli("job", "list").stdout.splitlines()

    assert len(lines) == 2 + 3
    assert max(map(len, lines)) <= 80
    assert {made_up[:8], other[:8], "2025-a-long-id-…"} == {line.split()[0] for line in lines[2:]}
    assert cli("job", "show", made_up[:8]).exit_code == 0
    assert "2025-a-long-id-of-a-job-that-was-chosen" in cli("job", "list", columns=200).stdout


def test_a_waiting_job_is_aborted_at_once_and_an_ended_job_is_not_changed(cli: Cli, store: JobStore) -> None:
    store.submit({"name": "means"}, packed(a="b"), "monday")

    aborted = cli("job", "abort", "monday", "--reason", "wrong data")

    assert aborted.exit_code == 0
    assert aborted.stdout.startswith("monday FINISHED:ABORTED: wrong data")
    assert cli("job", "abort", "monday").stdout.startswith("monday is over already: FINISHED:ABORTED")
    assert cli("job", "abort", "nothing").exit_code == 1


def test_an_abort_that_is_not_confirmed_in_time_is_exit_code_1_and_remains_requested(cli: Cli, store: JobStore) -> None:
    store.submit({"name": "means"}, packed(a="b"), "monday")
    advanced(store, "monday")

    assert "abort requested, still RUNNING" in cli("job", "abort", "monday", "--wait", "0").stdout
    late = cli("job", "abort", "monday", "--wait", "0.1")

    assert late.exit_code == 1
    assert "server 'server' is not running; it aborts the job when it starts" in late.stderr
    assert "abort requested" in cli("job", "show", "monday").stdout


def test_only_ended_jobs_are_deleted(cli: Cli, store: JobStore) -> None:
    for name in ("one", "two"):
        store.submit({"name": name}, packed(a=name), name)
    advanced(store, "one", COMPLETED)

    deleted = cli("job", "delete", "one", "two")

    assert deleted.stdout == "deleted one\n"
    assert deleted.exit_code == 1
    assert "cannot be deleted: abort it" in deleted.stderr
    assert cli("job", "delete", "one").exit_code == 1
    assert [record.id for record in store.list()] == ["two"]


def test_the_result_of_a_job_is_unpacked_into_a_new_folder(cli: Cli, store: JobStore, tmp_path: Path) -> None:
    store.submit({"name": "means"}, packed(meta__json="{}"), "monday")
    place = tmp_path / "result"
    assert cli("job", "download", "monday", "--to", str(place)).exit_code == 1
    store.put_result("monday", packed(models__a="weights"))

    assert cli("job", "download", "monday", "--to", str(place)).stdout == f"{place}\n"

    assert (place / "models" / "a").read_text() == "weights"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["result"]
    assert cli("job", "download", "monday", "--to", str(place)).exit_code == 2
    document = cli.json("job", "download", "monday", "--zip", "--archive", "--to", str(tmp_path / "job.zip"))
    assert list(document["files"]) == ["job.zip"]


def test_a_result_that_tries_to_escape_is_refused_and_leaves_nothing(cli: Cli, store: JobStore, tmp_path: Path) -> None:
    store.submit({"name": "means"}, packed(a="b"), "monday")
    store.put_result("monday", packed(**{"..__evil": "x"}))

    refused = cli("job", "download", "monday", "--to", str(tmp_path / "in" / "result"))

    assert refused.exit_code == 2
    assert list(tmp_path.rglob("*")) == [tmp_path / "in"]


def test_the_output_fits_eighty_columns(cli: Cli, store: JobStore) -> None:
    long = "a-name-that-is-rather-long-for-a-job-of-which-there-are-many"
    store.submit({"name": long}, packed(a="b"), long)
    advanced(store, long)
    store.set_site(long, "hospital-with-a-long-name", "stopped", exit_code=101, reason="word " * 40)
    for command in (["job", "list"], ["job", "show", long]):
        assert max(map(len, cli(*command).stdout.splitlines()[1:])) <= 80


def test_the_shell_completes_ids_of_jobs(cli: Cli, store: JobStore) -> None:
    import click
    from redflare_workers.cli.job_lookup import complete_job

    for name in ("monday", "tuesday"):
        store.submit({"name": name}, packed(a=name), name)
    context: Any = click.Context(click.Command("show"), obj=cli.connect)

    assert list(complete_job(context, "mo")) == [("monday", "monday SUBMITTED")]
