"""The output of the demo while it runs."""

from __future__ import annotations

from io import StringIO

import numpy as np
import pytest
from redflare_workers.demo.data import Samples
from redflare_workers.demo.display import Display, sparkline
from redflare_workers.demo.events import JobProcessEnded, RoundEnded, SiteActivity, SiteAnswered, SiteChanged
from rich.console import Console

SAMPLES = Samples(images=np.zeros((12, 64), np.float32), labels=np.array([0] * 9 + [3, 3, 9]))
KILLED = SiteChanged(site="site-1", state=SiteActivity.KILLED, round_number=2, pid=4711)
STARTED = SiteChanged(site="site-1", state=SiteActivity.STARTING, round_number=0, pid=4712)
ANSWERED = SiteAnswered(site="site-1", round_number=2, loss=0.5, accuracy=0.625, seconds=0.25)
ENDED = RoundEnded(round_number=2, loss=0.5, accuracy=0.75, seconds=0.3)


def shown(*events: object, terminal: bool) -> str:
    console = Console(file=StringIO(), force_terminal=terminal, width=140, color_system=None)
    with Display(console, 3, kills=True) as display:
        display.sites({"site-1": SAMPLES})
        for event in events:
            display.show(event)  # type: ignore[arg-type]
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_without_a_terminal_each_round_is_one_plain_line() -> None:
    assert shown(ANSWERED, ENDED, terminal=False) == (
        "round   2/3  federated 75.0%  loss 0.500  0.30 s  (site-1 62.5%)\n"
    )


def test_without_a_terminal_a_killed_agent_is_named() -> None:
    lines = shown(KILLED, STARTED, terminal=False)
    assert lines == "round   2  site-1: agent 4711 killed (SIGKILL) half-way through its training; starting another\n"


def test_without_a_terminal_a_killed_server_is_named() -> None:
    killed = JobProcessEnded(name="the server", pid=4713, round_number=1, killed=True)
    assert shown(killed, terminal=False) == (
        "round   2  the server: 4713 killed (SIGKILL) in the middle of a round; starting another\n"
    )


def test_the_live_table_shows_the_killed_agent_until_the_successor_is_ready() -> None:
    last = shown(KILLED, STARTED, terminal=True).splitlines()
    row = next(line for line in reversed(last) if "site-1" in line)
    assert row.split() == ["site-1", "12", "█··▂·····▁", "4712", "2", "killed", "1"]
    assert len(row.rstrip()) <= 80


def test_the_live_table_shows_loss_accuracy_and_time_of_site_and_federation() -> None:
    last = shown(ANSWERED, ENDED, terminal=True).splitlines()
    site = next(line for line in reversed(last) if "site-1" in line)
    federated = next(line for line in reversed(last) if "federated" in line)
    assert all(word in site for word in ("done", "0.500", "62.5%", "0.25 s"))
    assert all(word in federated for word in ("0.500", "75.0%", "0.30 s"))


@pytest.mark.parametrize(("counts", "bars"), [([0, 1, 8], "·▁█"), ([8, 8], "██"), ([], "")])
def test_a_sparkline_has_full_bars_for_the_maximum_and_dots_for_missing_values(counts: list[int], bars: str) -> None:
    assert sparkline(counts, 8) == bars
