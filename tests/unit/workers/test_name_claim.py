"""A server or a site whose name is in use is refused; with ``take_over`` the other one ends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fakeredis
import pytest
import typer
from redflare_broker.cell.cell_heartbeat import CellHeartbeat, read_heartbeat
from redflare_broker.config.settings import LinkSettings
from redflare_broker.errors import ConfigError, NameTaken, RedflareError
from redflare_broker.keys import CellKeys
from redflare_broker.transport.connection import Connection
from redflare_workers.cli.exit_codes import exit_on_error
from redflare_workers.cli.service import Level, serve
from redflare_workers.client.parent.client_engine import ClientEngine
from redflare_workers.server.parent.server_parent import ServerParent
from redflare_workers.workspace.site_settings import Site, SiteArgs

from tests.support.waiting import wait_until

SETTINGS = LinkSettings(heartbeat_interval=0.2, heartbeat_ttl=60.0, allow_eviction=True)

Parent = ServerParent | ClientEngine


def server(client: Any, workspace: Path, *, take_over: bool = False) -> Parent:
    return ServerParent(workspace, settings=SETTINGS, client=client, take_over=take_over)


def site(client: Any, workspace: Path, *, take_over: bool = False) -> Parent:
    workspace.mkdir(exist_ok=True)
    args = SiteArgs(workspace=workspace, settings=SETTINGS, client=client, take_over=take_over)
    return ClientEngine(Site(name="site-1"), args)


class Running:
    """A parent that runs in a thread."""

    def __init__(self, parent: Parent) -> None:
        self.parent = parent
        self.ended: list[str | RedflareError] = []
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.ended.append(self.parent.run())
        except RedflareError as error:
            self.ended.append(error)

    def end(self) -> str | RedflareError:
        self.parent.stop()
        return self.join()

    def join(self) -> str | RedflareError:
        self.thread.join(20)
        assert not self.thread.is_alive()
        return self.ended[0]


@pytest.fixture
def client() -> Iterator[Any]:
    made = fakeredis.FakeRedis(server=fakeredis.FakeServer())
    yield made
    made.close()


@pytest.fixture(params=["server", "site-1"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make(name: str) -> Callable[..., Parent]:
    return server if name == "server" else site


@pytest.fixture
def holder(client: Any, make: Callable[..., Parent], name: str, tmp_path: Path) -> Iterator[Running]:
    """One that serves."""
    running = Running(make(client, tmp_path / "first"))
    wait_until(lambda: client.exists(f"flare:{{{name}}}:heartbeat") or running.ended)
    assert not running.ended
    yield running
    running.end()


def test_one_that_is_started_elsewhere_is_refused_and_told_who_holds_the_name(
    client: Any, make: Callable[..., Parent], name: str, holder: Running, tmp_path: Path
) -> None:
    beat = client.hgetall(f"flare:{{{name}}}:cell")
    refused = Running(make(client, tmp_path / "second")).join()
    assert isinstance(refused, NameTaken)
    assert f"{name} runs already: process {beat[b'pid'].decode()} on {beat[b'host'].decode()}" in str(refused)
    assert "start this one with take_over=True" in str(refused)
    assert "start this one with --take-over, which" in refused.advise("--take-over")
    assert client.hget(f"flare:{{{name}}}:cell", "instance") == beat[b"instance"]
    assert not holder.ended


def test_one_that_is_told_to_take_over_does_and_the_other_ends(
    client: Any, make: Callable[..., Parent], name: str, holder: Running, tmp_path: Path
) -> None:
    second = Running(make(client, tmp_path / "second", take_over=True))
    assert "has taken over" in str(holder.join())
    assert holder.parent.fenced
    assert second.end() == "it was stopped"
    assert not second.parent.fenced


def killed(client: Any, name: str, instance: str) -> None:
    """Leave what a killed process leaves: its heartbeat."""
    beat = f'{{"instance": "{instance}", "epoch": 1, "interval": 0.2, "ttl_ms": 60000}}'
    client.set(f"flare:{{{name}}}:heartbeat", beat, px=60_000)


def test_one_that_was_killed_is_replaced_when_its_next_heartbeat_is_overdue(
    client: Any, make: Callable[..., Parent], name: str, tmp_path: Path
) -> None:
    killed(client, name, "elsewhere:77:aaaa")
    running = Running(make(client, tmp_path / "second"))
    wait_until(lambda: client.exists(f"flare:{{{name}}}:cell") or running.ended)
    assert running.end() == "it was stopped"


def test_one_that_was_killed_in_the_same_workspace_is_replaced_at_once(
    client: Any, make: Callable[..., Parent], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Running(make(client, tmp_path / "place"))
    wait_until(lambda: client.exists(f"flare:{{{name}}}:heartbeat") or first.ended)
    instance = client.hget(f"flare:{{{name}}}:cell", "instance").decode()
    first.end()
    killed(client, name, instance)
    monkeypatch.setattr("redflare_broker.cell.cell_heartbeat._MARGIN", 3600.0)
    again = Running(make(client, tmp_path / "place"))
    wait_until(lambda: client.hget(f"flare:{{{name}}}:cell", "instance") != instance.encode() or again.ended)
    assert again.end() == "it was stopped"


def test_one_that_watches_whether_another_is_alive_can_be_stopped(
    client: Any, make: Callable[..., Parent], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watching = threading.Event()

    def read(connection: Connection, keys: CellKeys) -> CellHeartbeat | None:
        watching.set()
        return read_heartbeat(connection, keys)

    monkeypatch.setattr("redflare_workers.workspace.name_claim.read_heartbeat", read)
    monkeypatch.setattr("redflare_broker.cell.cell_heartbeat._MARGIN", 3600.0)
    killed(client, name, "elsewhere:77:aaaa")
    running = Running(make(client, tmp_path / "second"))
    assert watching.wait(10)
    assert running.end() == "it was stopped"
    assert not client.exists(f"flare:{{{name}}}:cell")


@pytest.mark.parametrize(("replaced", "code"), [(True, 4), (False, 1)])
def test_a_command_that_was_replaced_ends_with_a_code_of_its_own(
    monkeypatch: pytest.MonkeyPatch, replaced: bool, code: int
) -> None:
    for name in ("signal.signal", "log_to_stderr", "_note_if_redis_is_away"):
        monkeypatch.setattr(f"redflare_workers.cli.service.{name}", lambda *args, **options: None)
    with pytest.raises(typer.Exit) as ended:
        serve(
            "server s",
            "redis://fake",
            SETTINGS,
            lambda: "it has ended",
            lambda reason: None,
            lambda: replaced,
            Level.ERROR,
            as_json=False,
        )
    assert ended.value.exit_code == code


@pytest.mark.parametrize(
    ("error", "code"), [(NameTaken("it runs already"), 4), (ConfigError("wrong"), 2), (RedflareError("away"), 3)]
)
def test_a_command_that_is_refused_ends_with_the_same_code(error: RedflareError, code: int) -> None:
    with pytest.raises(typer.Exit) as ended, exit_on_error():
        raise error
    assert ended.value.exit_code == code
