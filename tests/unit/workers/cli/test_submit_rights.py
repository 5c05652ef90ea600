"""``redflare job submit`` when something goes wrong after the job is stored, or may be."""

# mypy: allow-untyped-calls

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from redflare_broker.embedded.server import EmbeddedServer
from redflare_broker.job_store.store import JobStore
from redflare_broker.keys import Keys
from redflare_broker.transport.server import Server
from redflare_workers.cli.app import app
from redflare_workers.ipc.exchanger import IPCExchanger
from redflare_workers.jobs import FedJob
from redflare_workers.workflow import FedAvg
from typer.testing import CliRunner, Result


@pytest.fixture(scope="module")
def running() -> Iterator[EmbeddedServer]:
    with EmbeddedServer() as server:
        yield server


@pytest.fixture
def store(running: EmbeddedServer) -> Iterator[JobStore]:
    with redis.Redis.from_url(running.url) as admin:
        admin.flushall()
    with Server.connect(running.url) as server:
        yield JobStore(server, Keys("flare").store())


@pytest.fixture
def job(tmp_path: Path) -> Path:
    made = FedJob("means", min_clients=1, agent_id="trainer")
    made.to_server(FedJob.component(FedAvg, initial_model={"w": [0.0]}, min_clients=1, num_rounds=3))
    made.to_clients(IPCExchanger, tasks=["train"])
    made.export(tmp_path / "means")
    return tmp_path / "means"


def submit(running: EmbeddedServer, rules: str, job: Path, *more: str) -> Result:
    """Submit as a user with these rights."""
    with redis.Redis.from_url(running.url) as admin:
        admin.execute_command("ACL", "SETUSER", "bob", "reset", "on", ">pw", "~*", "&*", "+@all", *rules.split())
    url = running.url.replace("//", "//bob:pw@")
    return CliRunner(env={"NO_COLOR": "1", "REDFLARE_URL": url}).invoke(app, ["job", "submit", str(job), *more])


WRITES_ONLY = "-hgetall -get -xread"


def test_a_user_who_may_not_read_has_submitted_all_the_same(
    running: EmbeddedServer, store: JobStore, job: Path
) -> None:
    submitted = submit(running, WRITES_ONLY, job)

    (record,) = store.list()
    assert (submitted.exit_code, submitted.stdout) == (0, f"{record.id}\n")
    assert f"note: job {record.id} is submitted, but cannot be read: " in submitted.stderr
    assert "NOPERM" in submitted.stderr
    document = json.loads(submit(running, WRITES_ONLY, job, "--id", record.id, "--json").stdout)
    assert document == {"id": record.id}
    assert len(store.list()) == 1


def test_a_job_that_cannot_be_followed_is_named_as_submitted(
    running: EmbeddedServer, store: JobStore, job: Path
) -> None:
    submitted = submit(running, WRITES_ONLY, job, "--wait")

    (record,) = store.list()
    assert submitted.exit_code == 3
    assert f"redflare: job {record.id} is submitted, but then: " in submitted.stderr


def test_an_error_that_hides_the_outcome_names_the_id_for_a_second_try(
    running: EmbeddedServer, store: JobStore, job: Path
) -> None:
    """The step takes effect, and the event behind it, which wakes the server, is refused."""
    # Redis has the script from then on: it would not run in the pipeline whose error ends the command
    assert submit(running, "", job, "--id", "first").exit_code == 0
    rights = " ".join(f"~{store.keys.prefix}:{own}" for own in ("job*", "blob:*", "log:*"))
    refused = submit(running, f"resetkeys {rights} %R~*", job)
    hint = re.search(r"may be submitted; try again with --id (\S+), so that it does not run twice", refused.stderr)

    assert refused.exit_code == 3
    assert hint, refused.stderr
    assert [record.id for record in store.list()] == ["first", hint[1]]
    assert submit(running, "", job, "--id", hint[1]).exit_code == 0
    assert [record.id for record in store.list()] == ["first", hint[1]]
