"""Whether the peer is alive, decided by the ages of heartbeats alone, on a clock that the test sets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import pytest
from redflare_broker.link.liveness import Liveness, Peer

from tests.support.clock import Clock

CONNECTION_TIMEOUT: Final = 60.0
HEARTBEAT_TIMEOUT: Final = 300.0


@dataclass
class WatchedPeer:
    """A clock, and the liveness of the peer on it."""

    heartbeat_timeout: float | None = None
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.liveness = Liveness(CONNECTION_TIMEOUT, self.heartbeat_timeout, clock=self.clock)

    def after(self, seconds: float) -> Peer:
        """Put the clock forward; return the peer's state."""
        self.clock.now += seconds
        self.liveness.judge()
        return self.liveness.state


@pytest.mark.parametrize(
    ("heartbeat_timeout", "age", "seconds", "state"),
    [
        # no heartbeat yet (age None): counted from the beginning
        (None, None, 0.0, Peer.NEVER),
        (None, None, 59.9, Peer.NEVER),
        (None, None, 60.0, Peer.SILENT),
        (None, None, 1e9, Peer.SILENT),
        (HEARTBEAT_TIMEOUT, None, 299.9, Peer.SILENT),
        (HEARTBEAT_TIMEOUT, None, 300.0, Peer.GONE),
        # one heartbeat: its age counts, and the time since then
        (None, 0.0, 0.0, Peer.CONNECTED),
        (None, 0.0, 59.9, Peer.CONNECTED),
        (None, 0.0, 60.0, Peer.SILENT),
        (None, 0.0, 1e9, Peer.SILENT),
        (HEARTBEAT_TIMEOUT, 0.0, 299.9, Peer.SILENT),
        (HEARTBEAT_TIMEOUT, 0.0, 300.0, Peer.GONE),
        # a clock of Redis that seems to be ahead by rounding
        (None, -0.5, 0.0, Peer.CONNECTED),
        (None, -0.5, 60.0, Peer.SILENT),
    ],
)
def test_the_state_follows_from_the_silence(
    heartbeat_timeout: float | None, age: float | None, seconds: float, state: Peer
) -> None:
    watched = WatchedPeer(heartbeat_timeout)
    if age is not None:
        watched.liveness.heard(age)
    assert watched.after(seconds) is state


@pytest.mark.parametrize(
    ("age", "state"), [(0.0, Peer.CONNECTED), (59.0, Peer.CONNECTED), (60.0, Peer.SILENT), (300.0, Peer.GONE)]
)
def test_the_age_of_a_heartbeat_counts_and_not_when_it_was_read(age: float, state: Peer) -> None:
    watched = WatchedPeer(HEARTBEAT_TIMEOUT)
    assert watched.after(1000.0) is Peer.GONE
    watched.liveness.heard(age)
    assert watched.after(0.0) is state


def test_a_heartbeat_from_before_this_side_started_does_not_shorten_the_wait() -> None:
    watched = WatchedPeer()
    watched.liveness.heard(50.0)
    assert watched.after(59.0) is Peer.CONNECTED
    assert watched.after(1.0) is Peer.SILENT


def test_an_older_heartbeat_never_overrides_a_younger_one() -> None:
    watched = WatchedPeer()
    assert watched.after(100.0) is Peer.SILENT
    watched.liveness.heard(0.0)
    watched.liveness.heard(90.0)
    assert watched.liveness.silence == 0.0
    assert watched.after(0.0) is Peer.CONNECTED


def test_a_silent_peer_is_connected_again_after_a_heartbeat() -> None:
    watched = WatchedPeer(HEARTBEAT_TIMEOUT)
    watched.liveness.heard(0.0)
    assert [watched.after(60.0), watched.after(240.0)] == [Peer.SILENT, Peer.GONE]
    watched.liveness.heard(1.0)
    assert watched.after(0.0) is Peer.CONNECTED


def test_a_bye_overrides_any_heartbeat() -> None:
    watched = WatchedPeer(HEARTBEAT_TIMEOUT)
    watched.liveness.heard(0.0)
    watched.liveness.closed(True)
    assert watched.after(0.0) is Peer.LEFT
    watched.liveness.heard(0.0)
    assert watched.after(1000.0) is Peer.LEFT


def test_a_new_instance_cancels_the_bye_of_the_old_one() -> None:
    watched = WatchedPeer()
    watched.liveness.closed(True)
    assert watched.after(1.0) is Peer.LEFT
    watched.liveness.closed(False)
    assert watched.after(0.0) is Peer.NEVER
    watched.liveness.heard(0.0)
    assert watched.after(0.0) is Peer.CONNECTED


def test_only_a_change_of_state_is_reported() -> None:
    watched = WatchedPeer()
    news = []
    for seconds in (0.0, 30.0, 30.0, 1.0):
        watched.clock.now += seconds
        news.append(watched.liveness.judge())
    assert news == [False, False, True, False]
    assert "silent, no heartbeat for 61.0 s" in repr(watched.liveness)


@pytest.mark.parametrize(
    ("connection_timeout", "heartbeat_timeout", "interval", "looked"),
    [
        (60.0, None, 5.0, 5.0),
        (60.0, 300.0, 5.0, 5.0),
        (4.0, None, 5.0, 2.0),
        (60.0, 4.0, 5.0, 2.0),
        (3.0, 4.0, 5.0, 1.5),
        (3.0, 4.0, 0.5, 0.5),
        (0.01, None, 5.0, 0.05),
        (60.0, 0.0, 5.0, 0.05),
    ],
)
def test_a_short_timeout_is_noticed_in_time(
    connection_timeout: float, heartbeat_timeout: float | None, interval: float, looked: float
) -> None:
    assert Liveness(connection_timeout, heartbeat_timeout).beat_interval(interval) == looked


@dataclass
class WatchingSide:
    """A side that looks at its peer every 3 s, and takes it for dead after 6 s of silence."""

    clock: Clock = field(default_factory=Clock)
    interval: float = 3.0

    def __post_init__(self) -> None:
        self.liveness = Liveness(CONNECTION_TIMEOUT, 6.0, clock=self.clock)

    def look(self, age: float | None = None, *, after: float = 3.0, takes: float = 0.01, fails: bool = False) -> Peer:
        """Look, and return the peer's state.

        Args:
            age: of the peer's heartbeat; None: it has none, or the look fails.
            after: seconds since the last look.
            takes: seconds until this side deals with the reply.
        """
        self.clock.now += after
        self.liveness.begin_look(self.interval)
        self.clock.now += takes
        if age is not None:
            self.liveness.heard(age)
        self.liveness.end_look(self.interval, failed=fails)
        self.liveness.judge()
        return self.liveness.state


@pytest.fixture
def side() -> WatchingSide:
    """A side that has just seen its peer."""
    made = WatchingSide()
    assert [made.look(1.0), made.look(1.0)] == [Peer.CONNECTED] * 2
    return made


def test_a_peer_without_a_heartbeat_is_dead_when_it_was_looked_for_long_enough(side: WatchingSide) -> None:
    assert [side.look(), side.look()] == [Peer.CONNECTED, Peer.GONE]


def test_a_pause_before_a_look_does_not_count(side: WatchingSide) -> None:
    assert side.look(after=60.0) is Peer.CONNECTED
    assert side.look(1.0) is Peer.CONNECTED


def test_a_pause_during_a_look_does_not_count(side: WatchingSide) -> None:
    assert side.look(takes=60.0) is Peer.CONNECTED
    assert side.look(takes=60.0, fails=True) is Peer.CONNECTED
    assert side.look(1.0) is Peer.CONNECTED


def test_a_pause_that_breaks_the_connection_does_not_count(side: WatchingSide) -> None:
    for _ in range(20):
        assert side.look(after=60.0, takes=60.0, fails=True) is Peer.CONNECTED
        assert side.look(1.0) is Peer.CONNECTED


def test_a_peer_that_died_during_a_pause_is_found_dead_after_it(side: WatchingSide) -> None:
    assert [side.look(after=60.0), side.look()] == [Peer.CONNECTED, Peer.GONE]


def test_two_sides_that_were_paused_together_wait_for_each_other(side: WatchingSide) -> None:
    assert side.look(age=63.0, after=60.0) is Peer.CONNECTED
    assert side.look(age=0.1) is Peer.CONNECTED


def test_redis_away_for_less_than_the_timeout_is_no_silence(side: WatchingSide) -> None:
    states = [side.look(after=1.0, takes=1.0, fails=True) for _ in range(3)]
    # it is back, and the peer has not beaten again yet
    states.append(side.look(age=7.5, after=1.0))
    states.append(side.look(age=0.5))
    assert states == [Peer.CONNECTED] * 5


def test_redis_away_for_longer_than_the_timeout_is_a_death(side: WatchingSide) -> None:
    states = [side.look(after=1.0, takes=1.0, fails=True) for _ in range(6)]
    assert states[0] is Peer.CONNECTED
    assert states[-1] is Peer.GONE
    assert side.look(age=0.5) is Peer.CONNECTED
