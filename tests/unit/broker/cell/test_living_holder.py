"""Whether a process holds a cell and is alive, by its heartbeats: with a clock that runs as the watcher pauses."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from redflare_broker.cell.cell_heartbeat import CellHeartbeat, living_holder
from redflare_broker.errors import Unavailable


@dataclass
class Scene:
    """A cell's heartbeats: by whom, and when."""

    beats: list[tuple[float, str]]
    interval: float = 5.0
    now: float = 100.0
    pauses: list[float] = field(default_factory=list)
    stop_after: int = 1000

    def monotonic(self) -> float:
        return self.now

    def read(self) -> CellHeartbeat | None:
        past = [(at, who) for at, who in self.beats if at <= self.now]
        if not past or past[-1][1] == "bye":
            return None
        at, who = past[-1]
        return CellHeartbeat(instance=who, age=self.now - at, interval=self.interval)

    def pause(self, seconds: float) -> bool:
        assert seconds > 0
        self.pauses.append(seconds)
        self.now += seconds
        return len(self.pauses) >= self.stop_after


def watched(monkeypatch: pytest.MonkeyPatch, scene: Scene, gone: str = "") -> str:
    monkeypatch.setattr("redflare_broker.cell.cell_heartbeat.time.monotonic", scene.monotonic)
    holder = living_holder(scene.read, scene.pause, gone=gone)
    return holder.instance if holder else ""


def every(interval: float, who: str, first: float, count: int = 20) -> list[tuple[float, str]]:
    return [(first + number * interval, who) for number in range(count)]


@pytest.mark.parametrize("first", [95.1, 97.5, 99.99])
@pytest.mark.parametrize("regularity", [0.95, 1.0])
def test_one_that_beats_is_alive(monkeypatch: pytest.MonkeyPatch, first: float, regularity: float) -> None:
    scene = Scene(every(5.0 * regularity, "a", first - 20, 40))
    assert watched(monkeypatch, scene) == "a"
    assert sum(scene.pauses) <= 6.0


@pytest.mark.parametrize("last", [99.9, 97.0, 92.0])
def test_one_that_was_killed_is_not(monkeypatch: pytest.MonkeyPatch, last: float) -> None:
    scene = Scene([(last, "a")])
    assert watched(monkeypatch, scene) == ""
    assert scene.now == pytest.approx(last + 11.0)


def test_one_whose_beat_is_late_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    assert watched(monkeypatch, Scene([(99.0, "a"), (108.0, "a")])) == "a"


@pytest.mark.parametrize("beats", [[], [(80.0, "a")], [(99.0, "a"), (102.0, "bye")]])
def test_none_is_alive(monkeypatch: pytest.MonkeyPatch, beats: list[tuple[float, str]]) -> None:
    assert watched(monkeypatch, Scene(beats)) == ""


def test_one_that_is_known_to_be_gone_is_not_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene([(99.0, "a")])
    assert watched(monkeypatch, scene, gone="a") == ""
    assert not scene.pauses


def test_one_that_comes_meanwhile_is_watched_too(monkeypatch: pytest.MonkeyPatch) -> None:
    assert watched(monkeypatch, Scene([(99.0, "a"), *every(5.0, "b", 103.0)])) == "b"


def test_the_watch_can_be_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unavailable, match="was stopped"):
        watched(monkeypatch, Scene([(99.0, "a")], stop_after=1))
