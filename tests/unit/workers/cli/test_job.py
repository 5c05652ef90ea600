"""``redflare job``, and jobs in the output of other commands."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from redflare_broker.inspection.federation import Inspector
from redflare_broker.keys import room_note
from redflare_broker.payload.encoded_payload import EncodedPayload
from redflare_broker.payload.redis_store import RedisPayloadStore
from redflare_broker.payload.room import TTL_MS, RoomWait
from redflare_broker.scripts.lease import Role
from redflare_broker.transport.server import Server
from redflare_workers.cli.app import app
from typer.testing import CliRunner

from tests.support.job.live_bench import LiveJobBench, scheduled
from tests.support.link.steps import LinkSteps
from tests.support.process.cli import Cli


@pytest.fixture
def bench(cli: Cli) -> Iterator[LiveJobBench]:
    with Server.connect(client=cli.client) as server, server.borrow("any") as connection:
        yield LiveJobBench(server, connection)


@pytest.fixture
def busy(bench: LiveJobBench) -> LiveJobBench:
    """A job with a task that one site has answered, one is executing, and one has not asked for."""
    store = bench.run_server()
    one, two, three = (bench.site(f"site-{number}") for number in (1, 2, 3))
    chunks = RedisPayloadStore(bench.server).put(
        "flare:blob:{b1}", [memoryview(bytes(2500))], chunk=1000, ttl_ms=60_000
    )
    standing = scheduled(
        targets=("site-1", "site-2", "site-3"),
        timeout=600,
        options={"min_responses": 3},
        data=EncodedPayload(b"1", blob=chunks),
    )
    before = scheduled("t0", "warm-up", scheduled=time.time() - 5)
    store.schedule(before)
    store.finish("t0", "ok", time.time())
    store.schedule(standing)
    store.note("t1", [replace(bench.give_task(store, standing, one), received=time.time(), rc="OK")])
    bench.add_request(one)
    bench.give_task(store, standing, two, count=2)
    bench.silence(three)
    return bench


def test_jobs_are_listed_with_what_they_wait_for(cli: Cli, busy: LiveJobBench) -> None:
    listed = cli("job", "list", columns=200)

    assert listed.exit_code == 0
    assert re.search(r"(?m)^job-1 +● connected .* 2/3 +1 +train: waiting for 2 more of at least 3 re", listed.stdout)
    assert [job["fqcn"] for job in cli.json("job", "list")] == ["server.job-1"]


def test_an_agent_that_dies_with_its_task_is_seen_in_a_narrow_list_and_in_the_job(cli: Cli, busy: LiveJobBench) -> None:
    link = LinkSteps(busy.server, "site-2--trainer")
    link.both()
    link.assign("t1-site-2")
    link.take("t1-site-2")
    for attempt in (2, 3):
        link.hello("agent", f"agent-host:{attempt}:x")
        link.take("t1-site-2")
    busy.connection.call("HINCRBY", link.keys.link, "agent_since", -100_000)
    busy.connection.call("DEL", link.keys.heartbeat("agent"))

    assert "site-2: attempt 3, " in cli("job", "list", columns=80).stdout
    assert re.search(
        r"its agent: FETCHED for \S+ \S+ attempt 3: no agent is connected",
        cli("job", "show", "job-1", columns=200).stdout,
    )


def test_a_payload_that_does_not_fit_is_seen_before_all_else_and_in_the_job(cli: Cli, busy: LiveJobBench) -> None:
    fields = {
        "host": "gpu-1",
        "pid": 7,
        "nbytes": 20_000_000,
        "seconds": 30.0,
        "used": 240_000_000,
        "most": 250_000_000,
    }
    wait = RoomWait(prefix="flare:{site-2.job-1}:blob:a", **fields)  # type: ignore[arg-type]
    busy.connection.call("SET", room_note(wait.prefix), wait.to_note(), "PX", TTL_MS)

    assert cli("status", columns=200).stdout.startswith(
        "Redis has no room for a payload of 20.0 MB: 240 MB of at most 250 MB"
    )
    assert "site-2: 20.0 MB do " in cli("job", "list", columns=80).stdout
    assert "its result of 20.0 MB does not fit into Redis" in " ".join(cli("job", "show", "job-1").stdout.split())


def test_without_jobs_the_list_is_exit_code_1(cli: Cli) -> None:
    listed = cli("job", "list")

    assert (listed.exit_code, listed.stdout) == (1, "no jobs in namespace flare\n")
    assert cli.json("job", "list") == []


def test_a_job_is_shown_with_sites_and_tasks(cli: Cli, busy: LiveJobBench) -> None:
    shown = cli("job", "show", "job-1", columns=120)

    assert shown.exit_code == 0
    for line in (
        r"^job job-1  RUNNING for [0-9.]+ s$",
        r"server +● connected [0-9.]+ s  hub:42",
        r"site-1 +● connected .* waiting for a task for .* 1 *$",
        r"site-2 +● connected .* working on train for [0-9.]+ s, sent 2 times +0 *$",
        r"site-3 +◐ silent 40 s +1 h ago +- +0 *$",
        r"  broadcast to site-1, site-2, site-3 \(min_responses 3\), [0-9.]+ s ago, times out in 9 min",
        r"  sent to site-2 [0-9.]+ s ago, as t1-site-2",
        r"  results: site-1",
        r"  not sent to: site-3",
        r"  data: 2\.5 kB in chunks flare:blob:\{b1\}",
        r"  waiting for 2 more of at least 3 results: site-2 \(sent 2 times, last [0-9.]+ s ago\), site-3 \(silent for",
        r"warm-up t0  ok [0-9.]+ s ago",
        r"  broadcast, took 5 s, 0 of 0 sites answered",
    ):
        assert re.search(line, shown.stdout, re.MULTILINE), f"{line!r} is not in\n{shown.stdout}"
    [document] = cli.json("job", "show", "server.job-1")
    assert document["tasks"][0]["client_tasks"][1]["count"] == 2


def test_results_of_tasks_that_are_not_shown_are_not_denied(cli: Cli, bench: LiveJobBench) -> None:
    store, site = bench.run_server(), bench.site("site-1")
    for number in range(11):
        task = scheduled(f"t{number}", scheduled=time.time() - 20 + number)
        store.schedule(task)
        store.note(task.root_id, [replace(bench.give_task(store, task, site), received=time.time(), rc="OK")])
        store.finish(task.root_id, "ok", time.time())
        shown = cli("job", "show", "job-1", columns=120).stdout
        assert re.search(rf"site-1 .* {number + 1 if number < 9 else r'10[+]'} *$", shown, re.MULTILINE), shown


def test_an_ended_job_is_shown_with_its_status(cli: Cli, bench: LiveJobBench) -> None:
    bench.run_server()
    bench.membership.end(bench.connection, bench.lease, "FINISHED:COMPLETED", "FINISHED:COMPLETED")

    assert re.search(r"^job job-1  FINISHED:COMPLETED [0-9.]+ s ago$", cli("job", "show", "job-1").stdout, re.M)


def test_many_sites_are_counted_and_not_listed(cli: Cli, bench: LiveJobBench) -> None:
    store = bench.run_server()
    standing = scheduled(targets=tuple(f"site-{number}" for number in range(40)))
    store.schedule(standing)
    for number in range(20):
        bench.give_task(store, standing, bench.site(f"site-{number}"))

    shown = cli("job", "show", "job-1", columns=200).stdout

    assert "sent to 12 more" in shown
    assert "site-27 and 12 more" in shown
    assert " and 37 more" in shown


def test_a_task_whose_chunks_are_gone_shows_how_much_is_left(cli: Cli, busy: LiveJobBench) -> None:
    busy.connection.call("DEL", "flare:blob:{b1}:0")

    shown = cli("job", "show", "job-1", columns=200).stdout

    assert "data: 2.5 kB in chunks flare:blob:{b1}, of which 1.5 kB are left" in shown


def test_the_output_fits_eighty_columns(cli: Cli, busy: LiveJobBench) -> None:
    for command in (["job", "list"], ["job", "show", "job-1"], ["status"]):
        assert max(map(len, cli(*command).stdout.splitlines())) <= 80


def test_an_unknown_job_is_exit_code_1(cli: Cli) -> None:
    result = cli("job", "show", "job-1")

    assert result.exit_code == 1
    assert result.stderr == ("redflare: no job 'job-1' in namespace 'flare': `redflare job list` shows all jobs\n")
    assert cli.json("job", "show", "job-1") == []


def test_a_name_that_is_not_legal_is_exit_code_2(cli: Cli) -> None:
    result = cli("job", "show", "a b")

    assert result.exit_code == 2
    assert "'a b' is not legal" in result.stderr


def test_an_unavailable_redis_is_exit_code_3() -> None:
    for command in (["job", "list"], ["job", "show", "job-1", "--json"]):
        result = CliRunner().invoke(app, [*command, "--url", "redis://127.0.0.1:1", "--patience", "0"])

        assert (result.exit_code, result.stdout) == (3, "")
        assert "--url or REDFLARE_URL" in result.stderr


def test_help_names_examples_and_exit_codes(cli: Cli) -> None:
    for command in (["job", "list"], ["job", "show"]):
        printed = cli(*command, "--help").stdout

        assert f"redflare {' '.join(command)}" in printed.partition("Example")[2]
        assert "Exit codes: 0 fine, 1 not found" in printed


def test_status_shows_jobs_and_agents(cli: Cli, busy: LiveJobBench) -> None:
    link = LinkSteps(busy.server)
    link.both()

    shown = cli("status", columns=120)

    assert shown.exit_code == 0
    assert "job job-1  RUNNING for" in shown.stdout
    assert "    waiting for 2 more of at least 3 results: site-2 (sent 2 times, last" in shown.stdout
    assert "1 of 1 agents connected" in shown.stdout
    assert cli.json("status")["jobs"][0]["job_id"] == "job-1"


def test_status_begins_with_what_runs_then_all_that_are_missing(cli: Cli, busy: LiveJobBench) -> None:
    LinkSteps(busy.server, "site-1--trainer").both()
    gone = LinkSteps(busy.server, "site-2--trainer")
    gone.both()
    gone.bye("agent")

    lines = [line.rstrip() for line in cli("status").stdout.splitlines()]

    assert lines[0].startswith("job job-1  RUNNING for")
    missing = lines.index("Missing")
    assert re.fullmatch(r"  site site-3 of job job-1  ◐ silent 4[0-9] s", lines[missing + 1])
    assert lines[missing + 2] == "  agent site-2--trainer  ○ left"
    agents = [line.split()[0] for line in lines if "--trainer  " in line and not line.startswith(" ")]
    assert agents[:2] == ["site-2--trainer", "site-1--trainer"]


@pytest.mark.parametrize(
    ("left", "missing"),
    [
        (("cj",), []),
        (("cj", "agent"), []),
        (("agent",), ["  agent site-1--trainer  ○ left"]),
    ],
)
def test_status_misses_nobody_who_left_when_the_job_was_over(
    cli: Cli, bench: LiveJobBench, left: tuple[Role, ...], missing: list[str]
) -> None:
    link = LinkSteps(bench.server, "site-1--trainer")
    link.both()
    for role in left:
        link.bye(role)

    lines = [line.rstrip() for line in cli("status").stdout.splitlines()]

    assert [line for line in lines if line.startswith("  ") and "left" in line] == missing
    assert ("Missing" in lines) is bool(missing)


def test_status_counts_the_jobs_that_are_over_in_one_line(cli: Cli, bench: LiveJobBench) -> None:
    bench.run_server()
    bench.membership.end(bench.connection, bench.lease, "FINISHED:COMPLETED", "FINISHED:COMPLETED")

    shown = cli("status").stdout

    assert re.search(r"(?m)^1 finished: 1 COMPLETED, last job-1 [0-9.]+ s ago *$", shown)
    assert shown.count("job-1") == 1


def test_a_job_of_a_server_of_another_name_is_shown_with_it(bench: LiveJobBench) -> None:
    bench.run_server()
    (view,) = Inspector(bench.server).jobs.all()

    assert view.name == "job-1"
    assert replace(view, fqcn="hub.job-1").name == "hub.job-1"


def test_status_of_jobs_without_agents_is_fine(cli: Cli, bench: LiveJobBench) -> None:
    bench.run_server()

    shown = cli("status")

    assert shown.exit_code == 0
    assert "waiting for sites: none has joined" in " ".join(shown.stdout.split())
    assert "agents connected" not in shown.stdout


def test_the_task_of_a_job_is_not_shown_as_an_agents(cli: Cli, busy: LiveJobBench) -> None:
    result = cli("task", "t1")

    assert result.exit_code == 1
    assert "t1 is a task of job job-1, not of an agent: `redflare job show job-1`" in result.stderr
    assert cli("job", "show", "job-1").exit_code == 0
