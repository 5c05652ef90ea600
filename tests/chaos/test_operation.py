"""Jobs end with a definite status, although the SP, the SJs, or both are killed."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from redflare_broker.job_store.record import ABORTED, COMPLETED, DISPATCHED, STATUSES
from redflare_workers.processes.process_table import kill_group

from tests.chaos.random_pause import random_pause
from tests.support.federation.client_parents import PATIENCE
from tests.support.federation.parents import Operation, averaging, job_of, operation_of_its_own

pytestmark = [
    pytest.mark.serial,
    pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc"),
]

KILLS = 3


@pytest.fixture
def operation(tmp_path: Path) -> Iterator[Operation]:
    with operation_of_its_own(tmp_path) as made:
        yield made


@pytest.mark.parametrize("seed", [1, 2])
def test_jobs_end_although_servers_are_killed(operation: Operation, seed: int) -> None:
    rng = random.Random(seed)
    for site in ("site-1", "site-2"):
        operation.engine(site)
    server = operation.server()
    for number in range(4):
        job_id, aborts = f"job-{number}", rng.random() < 0.3
        operation.submit(job_of("Adding", averaging(120, 2), min_clients=2), job_id)
        deadline = time.monotonic() + PATIENCE
        kills, asked = 0, False
        while not operation.record(job_id).finished:
            assert time.monotonic() < deadline, f"{operation.record(job_id)}\n{operation.log(job_id)}"
            random_pause(rng, 0.8)
            if kills < KILLS and rng.random() < 0.3:
                with suppress(AssertionError):
                    state = operation.state(job_id)
                    kill_group(state.pid, state.pid_started)
            elif kills < KILLS:
                server.kill()
                server = operation.server()
            kills += 1
            if aborts and not asked and rng.random() < 0.5:
                operation.store.request_abort(job_id, "ann")
                asked = True
        record = operation.record(job_id)
        assert record.status in ((ABORTED, COMPLETED) if asked else (COMPLETED,)), record.reason
        statuses = [STATUSES.index(moment.status) for moment in record.history]
        assert statuses == sorted(set(statuses)), "a status went back, or came twice"
        dispatched = any(moment.status == DISPATCHED for moment in record.history)
        assert {state.status for state in record.sites.values()} == ({"stopped"} if dispatched else set())
