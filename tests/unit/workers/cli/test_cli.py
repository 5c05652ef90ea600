"""The ``redflare`` command: its output as text and as JSON, and its exit codes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redflare_broker.transport.server import Server
from redflare_workers.cli.app import app
from typer.testing import CliRunner, Result

from tests.support.link.steps import LinkSteps
from tests.support.process.cli import Cli

TASK = "3f0c2a52-5c1d-4b1e-9d8e-0d8a1f6a7b11"


@pytest.fixture
def link(cli: Cli) -> Iterator[LinkSteps]:
    with Server.connect(client=cli.client) as server:
        yield LinkSteps(server)


def one_line(result: Result) -> str:
    assert result.stderr.startswith("redflare: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


def test_status_shows_agents_and_what_their_tasks_wait_for(cli: Cli, link: LinkSteps) -> None:
    link.both()
    link.assign(TASK, blob=link.store(link.keys.task_blob("b1"), 1500))
    link.bye("agent")

    shown = cli("status")

    assert shown.exit_code == 0
    assert "site-1--trainer   ○ left" in shown.stdout
    assert "● connected" in shown.stdout
    assert f"train {TASK}" in shown.stdout
    assert re.search(r"NEW for [0-9.]+ s: no agent is connected \(it left\)", shown.stdout)
    assert "0 of 1 agents connected, 1.5 kB of payload in chunks" in shown.stdout


def test_tables_fit_eighty_columns_and_use_wide_ones(cli: Cli) -> None:
    with Server.connect(client=cli.client) as server:
        for number in range(3):
            link = LinkSteps(server, f"hospital-with-a-long-name-{number}.job-20251122-7c1e.trainer-of-the-model")
            link.both()
            link.assign(TASK)
            link.take(TASK)
            link.bury(link.keys.tasks, "a reason of many words that goes on and on, over the end of a line", "a", "b")
    for command in (["status"], ["dead", "list"], ["task", TASK]):
        lines = {columns: cli(*command, columns=columns).stdout.splitlines() for columns in (80, 200)}

        assert max(map(len, lines[80])) <= 80
        assert max(len(line.rstrip()) for line in lines[200]) > 80 or command[0] == "task"
        assert len(lines[200]) <= len(lines[80])


def test_status_is_json_for_programs(cli: Cli, link: LinkSteps) -> None:
    link.both()
    link.assign(TASK)

    document = cli.json("status")

    assert document["links"][0]["fqcn"] == "site-1--trainer"
    assert document["links"][0]["waiting"].startswith("NEW for ")


def test_a_federation_without_agents_is_exit_code_1(cli: Cli) -> None:
    assert cli("status").exit_code == 1
    assert "no agents, CJs or jobs found" in cli("status").stdout
    assert cli.json("status")["links"] == []


def test_a_task_is_shown_with_its_history(cli: Cli, link: LinkSteps) -> None:
    link.both()
    link.assign(TASK)
    link.take(TASK)
    link.submit(TASK)
    link.settle(TASK)

    shown = cli("task", TASK)

    assert shown.exit_code == 0
    steps = ["assigned by CJ", "fetched by agent", "result submitted, rc OK", "settled ACCEPTED"]
    places = [shown.stdout.index(step) for step in steps]
    assert places == sorted(places)
    assert cli.json("task", TASK, "--agent", link.fqcn)[0]["status"] == "ACCEPTED"


def test_an_unknown_task_is_exit_code_1(cli: Cli) -> None:
    result = cli("task", "t1")

    assert result.exit_code == 1
    assert "no task 't1' of any agent" in one_line(result)
    assert cli.json("task", "t1") == []


def test_dead_letters_are_listed_shown_replayed_and_dropped(cli: Cli, link: LinkSteps) -> None:
    link.both()
    link.assign(TASK)
    first = link.bury(link.keys.results, "unknown version '9'", "v", "9", "task_id", TASK, "data", "x" * 1000)
    second = link.bury(link.keys.tasks, "no topic", "a", b"\xff")

    listed = cli("dead", "list", "--agent", link.fqcn)
    assert listed.exit_code == 0
    assert "unknown version '9'" in listed.stdout
    assert [letter["id"] for letter in cli.json("dead", "list")] == [first, second]

    shown = cli("dead", "show", link.fqcn, first)
    assert "600 B more" in shown.stdout
    assert cli.json("dead", "show", link.fqcn, first)["fields"][2] == ["data", "x" * 1000]

    replayed = cli("dead", "replay", link.fqcn, first)
    assert f"{first} is back in {link.keys.results}" in replayed.stdout
    assert f"its task {TASK} is NEW" in replayed.stdout
    assert cli("dead", "replay", link.fqcn, first).exit_code == 1

    assert cli("dead", "drop", link.fqcn, second).stdout == "1 dropped\n"
    assert cli("dead", "drop", link.fqcn, "--all").exit_code == 1
    assert cli("dead", "list").stdout == "no dead letters\n"


def test_a_replay_for_a_settled_task_warns_that_it_is_buried_again(cli: Cli, link: LinkSteps) -> None:
    link.both()
    link.assign(TASK)
    link.abort(TASK, "stopped")
    letter = link.bury(link.keys.tasks, "no topic", "task_id", TASK)

    assert (
        f"its task {TASK} is ABORTED: its reader will bury it again" in cli("dead", "replay", link.fqcn, letter).stdout
    )


def test_an_unknown_dead_letter_is_exit_code_1(cli: Cli, link: LinkSteps) -> None:
    for command in ("show", "replay"):
        result = cli("dead", command, link.fqcn, "1-1")

        assert result.exit_code == 1
        assert "`redflare dead list` shows all dead letters" in one_line(result)


def test_drop_needs_ids_or_all_and_not_both(cli: Cli, link: LinkSteps) -> None:
    for args in ([], ["1-1", "--all"]):
        result = cli("dead", "drop", link.fqcn, *args)

        assert result.exit_code == 2
        assert "either the ids of letters or --all" in one_line(result)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["task", "a b"], "task_id must be a str"),
        (["task", "t1", "--agent", "a b"], "'a b' is not legal"),
        (["dead", "show", "a--b", "x"], "dead letter id 'x' is not legal"),
        (["tail", "a b"], "'a b' is not legal"),
        (["status", "--namespace", "a b"], "namespace 'a b' is not legal"),
        (["status", "--client-key", "k.pem"], "client_cert is not set"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(cli: Cli, args: list[str], says: str) -> None:
    result = cli(*args)

    assert result.exit_code == 2
    assert says in one_line(result)


def test_a_server_that_is_away_is_one_line_and_exit_code_3() -> None:
    for command in (["status"], ["task", "t1"], ["dead", "list"], ["tail", "a--b"], ["status", "--json"]):
        result = CliRunner().invoke(app, [*command, "--url", "redis://127.0.0.1:1", "--patience", "0"])

        assert result.exit_code == 3
        assert "--url or REDFLARE_URL" in one_line(result)
        assert result.stdout == ""


def test_a_password_is_never_shown() -> None:
    result = CliRunner().invoke(app, ["status", "--url", "redis://me:secret@127.0.0.1:1", "--patience", "0.1"])

    assert "trying again for 0.1 s" in result.output.lower()
    assert "secret" not in result.output


def test_a_password_on_the_command_line_warns(cli: Cli) -> None:
    url = "redis://me:secret@127.0.0.1:1"
    for command in (["status"], ["server", "--check"], ["site", "a", "--check"], ["simulate", "no:train"]):
        shown = cli(*command, "--url", url).stderr
        assert "redflare: warning: other users of this machine can see the password in --url (ps)" in shown, command
        assert "secret" not in shown
    assert "set REDFLARE_URL instead" in cli("status", "--url", url).stderr
    assert "warning" not in cli("status", REDFLARE_URL=url).output
    assert "warning" not in cli("status", "--url", "redis://me@127.0.0.1:1").output


def test_a_server_that_refuses_is_exit_code_3(cli: Cli, link: LinkSteps) -> None:
    with link.server.borrow("x") as connection:
        connection.call("SET", link.keys.link, "not a hash")

    result = cli("status")

    assert result.exit_code == 3
    assert "WRONGTYPE" in one_line(result)


def test_options_come_from_the_environment_too(cli: Cli, tmp_path: Path) -> None:
    password, certificate = tmp_path / "password", tmp_path / "ca.pem"

    cli(
        "status",
        REDFLARE_URL="rediss://node:7000",
        REDFLARE_NAMESPACE="other",
        REDFLARE_USER="reader",
        REDFLARE_PASSWORD_FILE=str(password),
        REDFLARE_CA_CERT=str(certificate),
    )

    ((url, options),) = cli.connections
    assert (url, options.username) == ("rediss://node:7000", "reader")
    assert (options.password_file, options.ca_cert) == (password, certificate)


def test_help_names_examples_and_exit_codes(cli: Cli) -> None:
    for command in (["status"], ["task"], ["tail"], ["dead", "list"], ["dead", "replay"], ["dead", "drop"]):
        printed = cli(*command, "--help").stdout

        assert f"redflare {' '.join(command)}" in printed.partition("Example")[2]
        assert "Exit codes: 0 fine, 1 not found" in printed


def test_tail_prints_one_json_object_per_event(cli: Cli, link: LinkSteps, monkeypatch: pytest.MonkeyPatch) -> None:
    link.both()
    link.assign(TASK)
    printed: list[Any] = []

    def take(text: str) -> None:
        printed.append(json.loads(text))
        if any(event["kind"] == "ledger" for event in printed):
            raise KeyboardInterrupt

    monkeypatch.setattr("redflare_workers.cli.display.typer.echo", take)

    result = cli("tail", link.fqcn, "--json")

    assert result.exit_code == 130
    assert {event["task_id"] for event in printed if event["kind"] in ("task", "ledger")} == {TASK}
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("redflare-tail")]


@pytest.mark.parametrize("json", [[], ["--json"]])
def test_tail_of_an_agent_that_is_not_there_names_those_that_are(cli: Cli, link: LinkSteps, json: list[str]) -> None:
    assert "none has connected yet" in one_line(cli("tail", "nosuch", *json))
    link.both()

    result = cli("tail", "nosuch", *json)

    assert result.exit_code == 1
    assert f"no agent 'nosuch' in namespace 'flare': there is {link.fqcn};" in one_line(result)
    assert result.stdout == ""


def test_the_error_without_typer_says_what_to_install() -> None:
    script = "import sys; sys.modules['typer'] = None; from redflare_workers.cli import main; main()"

    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)

    assert ended.returncode == 1
    assert ended.stderr == (
        "redflare: the command needs typer and rich, which are not installed: pip install '.[cli]' in the checkout, or "
        "pip install './WHEEL[cli]' with the name of the wheel\n"
    )
