"""Which sites are connected, by the member lists that the server's parent reads."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
from redflare_broker.job_state.members import Member, MemberList
from redflare_workers.server.parent.connected_sites import ConnectedSites

INTERVAL = 5.0


class Sites:
    """A server's parent that reads the list of its one site, and the changes that it hears of."""

    def __init__(self) -> None:
        self.changes: list[bool] = []
        cell: Any = SimpleNamespace(settings=SimpleNamespace(heartbeat_interval=INTERVAL))
        nothing: Any = None
        self.sites = ConnectedSites(
            nothing,
            cell,
            nothing,
            on_change=lambda: self.changes.append(self.sites.is_alive("site-1")),
            on_beat=lambda: None,
            over=lambda: False,
        )
        self._asked = time.monotonic()

    def look(self, *, alive: bool, after: float = INTERVAL, **changes: Any) -> bool:
        """Read the list so many seconds after the last one; return whether the site is connected."""
        self._asked += after
        about: dict[str, Any] = {"instance": "a", "left": 0, **changes}
        member = Member(
            name="site-1",
            epoch=1,
            cell="site-1",
            host="h",
            pid=1,
            joined=1,
            heartbeat_ms=60_000 if alive else -2,
            **about,
        )
        self.sites._on_members(MemberList(status="OK", members=(member,), asked=self._asked))
        return self.sites.is_alive("site-1")


@pytest.fixture
def parent() -> Sites:
    made = Sites()
    assert made.look(alive=True)
    return made


def test_a_site_without_a_heartbeat_is_disconnected(parent: Sites) -> None:
    assert not parent.look(alive=False)
    assert parent.look(alive=True)
    assert parent.changes == [True, False, True]


def test_after_a_pause_of_the_server_the_second_look_decides(parent: Sites) -> None:
    assert parent.look(alive=False, after=100.0)
    assert parent.look(alive=True)
    assert parent.look(alive=False, after=100.0)
    assert not parent.look(alive=False)
    assert parent.changes == [True, False]


@pytest.mark.parametrize("changes", [{"left": 7}, {"instance": "b"}])
def test_after_a_pause_a_site_that_has_left_or_was_replaced_is_not_spared(
    parent: Sites, changes: dict[str, Any]
) -> None:
    assert not parent.look(alive=False, after=100.0, **changes)
