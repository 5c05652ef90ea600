"""The process of one site: how it ends when it cannot run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import pytest
from redflare_workers.demo.data import Samples
from redflare_workers.demo.errors import DemoError
from redflare_workers.demo.events import Event, Failed, SiteActivity, SiteChanged
from redflare_workers.demo.lifeline import STATUS
from redflare_workers.demo.settings import SAMPLES_FILE, DemoSettings
from redflare_workers.demo.watched_process import MAX_CRASHES, AgentProcess


def settings(scratch: Path, url: str) -> DemoSettings:
    return DemoSettings(
        url=url, job_id="demo", sites=["site-1"], rounds=3, seed=7, ask_leave=False, scratch=str(scratch)
    )


@pytest.fixture
def events() -> SimpleQueue[Event]:
    return SimpleQueue()


@pytest.fixture
def hopeless(tmp_path: Path, events: SimpleQueue[Event]) -> Iterator[AgentProcess]:
    """An agent with an invalid URL."""
    given = settings(tmp_path, "nonsense://nowhere")
    given.save()
    Samples(images=np.zeros((3, 64), np.float32), labels=np.zeros(3, np.int64)).save(
        given.folder("site-1") / SAMPLES_FILE
    )
    agent = AgentProcess("site-1", given.command("site_agent", "site-1"), tmp_path / "agent.log", events.put)
    yield agent
    agent.stop()


def test_an_agent_that_dies_again_and_again_ends_the_demo_with_its_last_output(
    hopeless: AgentProcess, events: SimpleQueue[Event]
) -> None:
    hopeless.start()
    for _ in range(MAX_CRASHES):
        started, died = events.get(timeout=30), events.get(timeout=30)
        assert isinstance(started, SiteChanged)
        assert died == SiteChanged(site="site-1", state=SiteActivity.DIED, round_number=0, pid=started.pid)
    failed = events.get(timeout=30)
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, DemoError)
    assert "unknown scheme 'nonsense'" in str(failed.error)
    assert "site-1 ended by itself 3 times, the last time with exit code 1" in str(failed.error)


def test_an_agent_that_is_stopped_first_is_never_started(hopeless: AgentProcess, events: SimpleQueue[Event]) -> None:
    hopeless.let_end()
    hopeless.start()
    hopeless.stop()
    assert events.empty()


def test_a_process_that_ends_as_it_should_is_not_started_again(tmp_path: Path, events: SimpleQueue[Event]) -> None:
    agent = AgentProcess("site-1", [sys.executable, "-c", ""], tmp_path / "agent.log", events.put)
    agent.start()
    assert agent._over.wait(30)
    agent.stop()
    started = events.get_nowait()
    assert isinstance(started, SiteChanged)
    assert started.state is SiteActivity.STARTING
    assert events.empty()


def test_a_status_counts_even_behind_output_without_a_line_break(tmp_path: Path, events: SimpleQueue[Event]) -> None:
    status = STATUS + b'{"state": "training", "round": 4}\n'
    program = f"import os; print('epoch 1', end='', flush=True); os.write(1, {status!r})"
    agent = AgentProcess("site-1", [sys.executable, "-c", program], tmp_path / "agent.log", events.put)
    agent.start()
    assert agent._over.wait(30)
    started, training = events.get_nowait(), events.get_nowait()
    assert isinstance(started, SiteChanged)
    assert training == SiteChanged(site="site-1", state=SiteActivity.TRAINING, round_number=4, pid=started.pid)
    assert list(agent._log_lines) == ["epoch 1"]


def test_settings_are_read_back_unchanged(tmp_path: Path) -> None:
    given = settings(tmp_path, "redis://:secret@host")
    given.save()
    assert DemoSettings.load(str(tmp_path)) == given
    assert [given.folder(name).is_dir() for name in ("server", "site-1")] == [True, True]
    commands = [given.command("server"), given.command("client_jobs"), given.command("site_agent", "site-1")]
    assert not any("secret" in word for command in commands for word in command), "command lines can be read by all"
