"""Whether the other side is there, decided by ages alone; time is a number of the test's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import pytest
from redflare_broker.link.liveness import Liveness, Peer

CONNECTION_TIMEOUT: Final = 60.0
HEARTBEAT_TIMEOUT: Final = 300.0


@dataclass
class Clock:
    """Monotonic seconds, moved by hand."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Watch:
    """A clock, and what is known of the peer by it."""

    heartbeat_timeout: float | None = None
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.liveness = Liveness(CONNECTION_TIMEOUT, self.heartbeat_timeout, clock=self.clock)

    def after(self, seconds: float) -> Peer:
        """The peer's state when time has passed."""
        self.clock.now += seconds
        self.liveness.judge()
        return self.liveness.state


@pytest.mark.parametrize(
    ("heartbeat_timeout", "age", "seconds", "state"),
    [
        # never heard of (age None): counted from the beginning
        (None, None, 0.0, Peer.AWAITED),
        (None, None, 59.9, Peer.AWAITED),
        (None, None, 60.0, Peer.DISCONNECTED),
        (None, None, 1e9, Peer.DISCONNECTED),
        (HEARTBEAT_TIMEOUT, None, 299.9, Peer.DISCONNECTED),
        (HEARTBEAT_TIMEOUT, None, 300.0, Peer.DEAD),
        # heard once: its age counts, and what has passed since
        (None, 0.0, 0.0, Peer.CONNECTED),
        (None, 0.0, 59.9, Peer.CONNECTED),
        (None, 0.0, 60.0, Peer.DISCONNECTED),
        (None, 0.0, 1e9, Peer.DISCONNECTED),
        (HEARTBEAT_TIMEOUT, 0.0, 299.9, Peer.DISCONNECTED),
        (HEARTBEAT_TIMEOUT, 0.0, 300.0, Peer.DEAD),
        # a clock of Redis that seems to be ahead by rounding
        (None, -0.5, 0.0, Peer.CONNECTED),
        (None, -0.5, 60.0, Peer.DISCONNECTED),
    ],
)
def test_silence_decides(heartbeat_timeout: float | None, age: float | None, seconds: float, state: Peer) -> None:
    watch = Watch(heartbeat_timeout)
    if age is not None:
        watch.liveness.heard(age)
    assert watch.after(seconds) is state


@pytest.mark.parametrize(
    ("age", "state"), [(0.0, Peer.CONNECTED), (59.0, Peer.CONNECTED), (60.0, Peer.DISCONNECTED), (300.0, Peer.DEAD)]
)
def test_the_age_of_a_beat_counts_and_not_the_moment_of_the_look(age: float, state: Peer) -> None:
    watch = Watch(HEARTBEAT_TIMEOUT)
    assert watch.after(1000.0) is Peer.DEAD
    watch.liveness.heard(age)
    assert watch.after(0.0) is state


def test_a_beat_that_was_there_before_this_side_began_does_not_shorten_the_wait() -> None:
    watch = Watch()
    watch.liveness.heard(50.0)
    assert watch.after(59.0) is Peer.CONNECTED
    assert watch.after(1.0) is Peer.DISCONNECTED


def test_an_older_beat_never_takes_back_a_younger_one() -> None:
    watch = Watch()
    assert watch.after(100.0) is Peer.DISCONNECTED
    watch.liveness.heard(0.0)
    watch.liveness.heard(90.0)
    assert watch.liveness.silence == 0.0
    assert watch.after(0.0) is Peer.CONNECTED


def test_a_peer_that_was_silent_comes_back() -> None:
    watch = Watch(HEARTBEAT_TIMEOUT)
    watch.liveness.heard(0.0)
    assert [watch.after(60.0), watch.after(240.0)] == [Peer.DISCONNECTED, Peer.DEAD]
    watch.liveness.heard(1.0)
    assert watch.after(0.0) is Peer.CONNECTED


def test_a_goodbye_counts_more_than_any_beat() -> None:
    watch = Watch(HEARTBEAT_TIMEOUT)
    watch.liveness.heard(0.0)
    watch.liveness.closed(True)
    assert watch.after(0.0) is Peer.CLOSED
    watch.liveness.heard(0.0)
    assert watch.after(1000.0) is Peer.CLOSED


def test_a_new_instance_ends_the_goodbye_of_the_old_one() -> None:
    watch = Watch()
    watch.liveness.closed(True)
    assert watch.after(1.0) is Peer.CLOSED
    watch.liveness.closed(False)
    assert watch.after(0.0) is Peer.AWAITED
    watch.liveness.heard(0.0)
    assert watch.after(0.0) is Peer.CONNECTED


def test_only_a_change_is_news() -> None:
    watch = Watch()
    news = []
    for seconds in (0.0, 30.0, 30.0, 1.0):
        watch.clock.now += seconds
        news.append(watch.liveness.judge())
    assert news == [False, False, True, False]
    assert "disconnected, silent for 61.0 s" in repr(watch.liveness)


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
