"""The plan of ``redflare up``: which processes, with which commands, and what is made in the folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from redflare_broker.config.settings import load_settings
from redflare_broker.errors import ConfigError
from redflare_workers.up.plan import UpOptions, make_plan


def options(folder: Path, **more: object) -> UpOptions:
    return UpOptions(folder=folder / "up", **more)  # type: ignore[arg-type]


def test_each_site_has_a_process_and_an_agent_in_its_workspace(tmp_path: Path) -> None:
    plan = make_plan(options(tmp_path, sites=2, agent="trainer:train", agent_id="gpu"))

    assert [each.name for each in plan.processes] == ["redis", "server", "site-1", "site-2", "agent-1", "agent-2"]
    agent = plan.processes[-1]
    assert agent.command[-9:] == (
        *("agent", "run", "trainer:train", "--id", "gpu", "--site", "site-2"),
        *("--workspace", str(tmp_path / "up" / "site-2")),
    )
    assert agent.log == tmp_path / "up" / "logs" / "agent-2.log"
    assert {each.env["REDFLARE_URL"] for each in plan.others} == {f"unix://{tmp_path}/up/redis/server.sock"}


def test_without_a_function_there_are_no_agents(tmp_path: Path) -> None:
    plan = make_plan(options(tmp_path, sites=1))
    assert [each.kind for each in plan.processes] == ["redis", "server", "site"]


def test_a_redis_that_is_given_is_not_started_and_no_command_line_has_its_password(tmp_path: Path) -> None:
    plan = make_plan(options(tmp_path, url="redis://:secret@127.0.0.1:6390", agent="trainer:train"))
    assert plan.redis is None
    assert not any("secret" in word for each in plan.processes for word in each.command)
    assert "secret" not in repr(plan)


def test_a_port_is_part_of_the_url(tmp_path: Path) -> None:
    plan = make_plan(options(tmp_path, port=6390))
    assert plan.access.url == "redis://127.0.0.1:6390"
    assert plan.redis is not None
    assert plan.redis.command[-1] == "6390"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"url": "redis://127.0.0.1", "port": 6390}, "leave one of them out"),
        ({"url": "nonsense://nowhere"}, "unknown scheme"),
    ],
)
def test_options_that_cannot_be_are_refused_and_nothing_is_made(
    tmp_path: Path, given: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_plan(options(tmp_path, **given))
    assert not list(tmp_path.iterdir())


def test_workspaces_are_made_once_and_belong_to_the_user(tmp_path: Path) -> None:
    plan = make_plan(options(tmp_path))
    plan.folder.make()
    plan.folder.prepare(plan.workspaces)
    config = plan.folder.workspace("site-1") / "comm_config.json"
    assert load_settings(config.parent).heartbeat_interval == 1.0
    config.write_text(json.dumps({"heartbeat_interval": 3.0}))

    plan.folder.make()
    plan.folder.prepare(plan.workspaces)

    assert load_settings(config.parent).heartbeat_interval == 3.0
    assert plan.folder.path.stat().st_mode & 0o777 == 0o700
    assert (plan.folder.path / ".gitignore").read_text() == "*\n"


def test_a_folder_of_the_user_s_gets_no_gitignore(tmp_path: Path) -> None:
    (tmp_path / "up").mkdir()
    plan = make_plan(options(tmp_path))
    plan.folder.make()
    plan.folder.prepare(plan.workspaces)
    assert not (plan.folder.path / ".gitignore").exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "up").write_text("a file")
    plan = make_plan(options(tmp_path))
    with pytest.raises(ConfigError, match=r"up.* cannot be written.*give another --folder"):
        plan.folder.prepare(plan.workspaces)
