"""What ``redflare up`` says, and how other commands find it."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from redflare_workers.cli.up_display import UpDisplay, next_steps
from redflare_workers.up import DEFAULT_FOLDER
from redflare_workers.up.events import Connected, Died, Ending, Event, Over, Ready, Said, Started
from redflare_workers.up.plan import UpOptions, UpPlan, make_plan
from redflare_workers.up.running import RunningUp

from tests.support.process.cli import Cli


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> UpPlan:
    monkeypatch.chdir(tmp_path)
    return make_plan(UpOptions(folder=Path(DEFAULT_FOLDER), sites=3, agent="trainer:train"))


def test_the_next_steps_are_ten_lines_at_most(plan: UpPlan) -> None:
    steps = next_steps(plan)
    assert len(steps) <= 10
    text = "\n".join(steps)
    for part in ("3 sites", "trainer:train", "redflare job submit", "redflare status", "redis-cli -s ", "Ctrl-C"):
        assert part in text
    assert f"export REDFLARE_URL={plan.access.url}" in text
    assert "Commands find it in this folder" in text


def test_elsewhere_the_url_is_to_be_set_and_a_password_is_not_shown(tmp_path: Path) -> None:
    plan = make_plan(UpOptions(folder=tmp_path / "other", url="redis://:secret@127.0.0.1"))
    text = "\n".join(next_steps(plan))
    assert "In another terminal, first:" in text
    assert "secret" not in text
    assert "no agents" in text


def shown(plan: UpPlan, capsys: pytest.CaptureFixture[str], *events: Event, as_json: bool = False) -> tuple[str, str]:
    display = UpDisplay(plan, as_json=as_json)
    for event in events:
        display.show(event)
    out, err = capsys.readouterr()
    return out, err


def test_lines_have_the_name_in_front_and_those_of_a_log_their_text(
    plan: UpPlan, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["loss 0.5", "2026-01-02 10:11:12,123 INFO a.b: joined", "2026-01-02 10:11:12,123 ERROR a.b: broken \x1b["]
    out, err = shown(plan, capsys, Said(name="site-1", lines=lines))
    assert err.splitlines() == ["site-1  | loss 0.5", "site-1  | joined", "site-1  | ERROR broken \\x1b["]
    assert not out


def test_deaths_and_returns_are_told(plan: UpPlan, capsys: pytest.CaptureFixture[str]) -> None:
    ready, died = Ready(name="site-1"), Died(name="site-1", how="killed by SIGKILL", pause=1.0)
    _, err = shown(plan, capsys, ready, died, ready, replace(died, pause=None), Over(name="site-1"), Ending())
    assert err.splitlines() == [
        "redflare: site-1: died, killed by SIGKILL; starting it again in 1 s",
        "redflare: site-1: connected again",
        "redflare: site-1: killed by SIGKILL; it is not started again: another process has its name",
        "redflare: ending all: agents, sites, the server, Redis (once more kills them)",
    ]


def test_programs_get_a_line_of_json_for_each_event(plan: UpPlan, capsys: pytest.CaptureFixture[str]) -> None:
    events = Started(name="redis", pid=7), Said(name="redis", lines=["hello"]), Ready(name="redis"), Connected()
    out, err = shown(plan, capsys, *events, as_json=True)
    documents = [json.loads(line) for line in out.splitlines()]
    assert [each["event"] for each in documents] == ["started", "ready", "connected"]
    assert (documents[0]["process"], documents[0]["pid"]) == ("redis", 7)
    assert documents[2]["url"] == plan.access.url
    assert not err


def test_a_command_in_the_same_folder_finds_what_runs(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("REDFLARE_URL", raising=False)
    running = RunningUp.of_this_process("unix:///somewhere/server.sock")
    running.write(tmp_path / DEFAULT_FOLDER)
    assert (tmp_path / DEFAULT_FOLDER / "running.json").stat().st_mode & 0o777 == 0o600

    cli("status")
    cli("status", "--url", "redis://other")
    cli("status", REDFLARE_URL="redis://third")
    RunningUp.remove(tmp_path / DEFAULT_FOLDER)
    cli("status")

    urls = [url for url, _ in cli.connections]
    assert urls == ["unix:///somewhere/server.sock", "redis://other", "redis://third", "redis://127.0.0.1:6379/0"]


@pytest.mark.parametrize("left", ["killed", "garbage", "other fields"])
def test_what_a_killed_one_or_a_stranger_has_left_counts_for_nothing(tmp_path: Path, left: str) -> None:
    running = RunningUp.of_this_process("redis://stranger")
    replace(running, started="1" if left == "killed" else running.started).write(tmp_path)
    if left == "garbage":
        (tmp_path / "running.json").write_text("{")
    elif left == "other fields":
        (tmp_path / "running.json").write_text(json.dumps({"url": "x", "pid": os.getpid()}))
    assert RunningUp.find(tmp_path) is None


def test_the_help_fits_eighty_columns(cli: Cli) -> None:
    result = cli("up", "--help")
    assert result.exit_code == 0
    assert "redflare up --sites 3 --agent trainer:train" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "6390", "--url", "redis://127.0.0.1"], "leave one of them out"),
        (["--sites", "0"], "--sites"),
        (["--folder", "/proc/nowhere"], "give another --folder"),
    ],
)
def test_wrong_usage_is_exit_code_2(cli: Cli, arguments: list[str], message: str) -> None:
    result = cli("up", *arguments)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
