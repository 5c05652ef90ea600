"""The watched process of one site: how it ends when it cannot live."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import pytest
from redflare_workers.demo.agent_process import AgentProcess
from redflare_workers.demo.data import Samples
from redflare_workers.demo.errors import DemoError
from redflare_workers.demo.events import Event, Failed, SiteActivity, SiteChanged
from redflare_workers.demo.job_settings import JobSettings
from redflare_workers.demo.processes import MOST_DEATHS
from redflare_workers.demo.site_settings import SAMPLES_FILE, DemoSiteSettings

SAMPLES = Samples(images=np.zeros((3, 64), np.float32), labels=np.zeros(3, np.int64))


def settings(scratch: Path, url: str) -> DemoSiteSettings:
    return DemoSiteSettings(
        url=url, site="site-1", agent_id="demo", index=1, seed=7, ask_leave=False, scratch=str(scratch)
    )


@pytest.fixture
def events() -> SimpleQueue[Event]:
    return SimpleQueue()


@pytest.fixture
def hopeless(tmp_path: Path, events: SimpleQueue[Event]) -> Iterator[AgentProcess]:
    """An agent whose URL is none."""
    agent = AgentProcess(settings(tmp_path, "nonsense://nowhere"), SAMPLES, events.put, None)
    yield agent
    agent.stop()


def test_an_agent_that_dies_again_and_again_ends_the_demo_with_its_last_words(
    hopeless: AgentProcess, events: SimpleQueue[Event]
) -> None:
    hopeless.start()
    for _ in range(MOST_DEATHS):
        started, died = events.get(timeout=30), events.get(timeout=30)
        assert isinstance(started, SiteChanged)
        assert died == SiteChanged(site="site-1", state=SiteActivity.DIED, round_number=0, pid=started.pid)
    failed = events.get(timeout=30)
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, DemoError)
    assert "nonsense://nowhere" in str(failed.error)
    assert "site-1 ended by itself 3 times, the last time with exit code 1" in str(failed.error)


def test_an_agent_told_to_end_before_it_starts_is_never_started(
    hopeless: AgentProcess, events: SimpleQueue[Event]
) -> None:
    hopeless.let_end()
    hopeless.start()
    hopeless.stop()
    assert events.empty()


def test_a_process_that_ends_as_it_should_is_not_started_again(tmp_path: Path, events: SimpleQueue[Event]) -> None:
    agent = AgentProcess(settings(tmp_path, "nonsense://nowhere"), SAMPLES, events.put)
    agent._command = [sys.executable, "-c", ""]
    agent.start()
    agent._thread.join(30)
    agent.stop()
    started = events.get_nowait()
    assert isinstance(started, SiteChanged)
    assert started.state is SiteActivity.STARTING
    assert events.empty()


def test_settings_come_back_from_the_workspace_as_they_were(tmp_path: Path) -> None:
    given = settings(tmp_path, "redis://:secret@host")
    command = given.prepare(SAMPLES)
    assert DemoSiteSettings.load(tmp_path / "site-1") == given
    assert not any("secret" in word for word in command), "a command line can be read by everybody"


def test_the_settings_of_the_job_come_back_too_and_the_server_has_the_held_out_images(tmp_path: Path) -> None:
    given = JobSettings(
        url="redis://:secret@host", job_id="demo", sites=["site-1"], rounds=3, seed=7, scratch=str(tmp_path)
    )
    commands = [given.prepare_server(SAMPLES), given.prepare_client_jobs()]
    assert JobSettings.load(given.server_workspace) == given == JobSettings.load(given.client_jobs_workspace)
    assert len(Samples.load(given.server_workspace / SAMPLES_FILE)) == len(SAMPLES)
    assert not any("secret" in word for command in commands for word in command)
