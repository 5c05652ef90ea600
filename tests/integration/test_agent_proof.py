"""What the proof of an abort says of an agent of ``redflare agent run``: its process is part of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from redflare_workers.agent_run import AgentProcessArgs, AgentSupervisor, ProcessEvent
from redflare_workers.client.parent.client_engine import ClientEngine
from redflare_workers.jobs import pack_files

from tests.support.federation.client_parents import JOB, META, SITE_1, Sites, client_config, is_gone, sites_at
from tests.support.waiting import wait_until

TRAINER = """
import ctypes, pathlib, threading
from redflare_agent import TaskResult

def obedient(task):
    pathlib.Path("begun").touch()
    task.wait_aborted()
    return TaskResult({}, task.data)

def deaf(task):
    pathlib.Path("begun").touch()
    threading.Event().wait()

def frozen(task):
    pathlib.Path("begun").touch()
    while True:
        ctypes.PyDLL(None).sleep(300)
"""


@pytest.fixture
def sites(
    shared_server: tuple[str, redis.Redis], tmp_path: Path, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Sites]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trainer_of_proof.py").write_text(TRAINER)
    with sites_at(shared_server[0], tmp_path, namespace) as made:
        yield made


def started(sites: Sites) -> ClientEngine:
    """Start a job whose executor hands its tasks to the agent."""
    config = client_config("redflare_workers.IPCExchanger", {"agent_heartbeat_interval": 0.2})
    app = pack_files({"config/config_fed_client.json": json.dumps(config).encode()})
    sites.parent_server()
    sites.server_job()
    engine = sites.engine(abort_grace=2.0, stop_grace=0.5)
    assert engine.deploy_app("app", JOB, {**META, "agent_id": "agent"}, SITE_1, app) == ""
    engine.start_app(JOB, META)
    return engine


@pytest.mark.parametrize(("function", "state"), [("obedient", "left"), ("deaf", "killed"), ("frozen", "killed")])
def test_the_proof_says_how_the_work_of_an_agent_has_ended(sites: Sites, function: str, state: str) -> None:
    engine = started(sites)
    events: list[ProcessEvent] = []
    args = AgentProcessArgs(
        train=f"trainer_of_proof:{function}",
        url=sites.url,
        site=SITE_1,
        agent_id="agent",
        workspace=str(sites.folder / SITE_1),
        abort_grace=1.0,
    )
    supervisor = AgentSupervisor(args, events.append)
    thread = threading.Thread(target=supervisor.run)
    thread.start()
    try:
        wait_until((sites.folder / "begun").exists, 30)
        proof = engine.abort(JOB)
        assert proof.agents == {f"{SITE_1}--agent": state}
        assert is_gone(events[0].pid) == (state == "killed")
    finally:
        supervisor.stop()
        thread.join(30)
