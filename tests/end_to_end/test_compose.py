"""What ``docker-compose.yml`` starts, started here: its commands, its health checks, and its example job."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.federation.commands import OperatedFederation
from tests.support.paths import ROOT
from tests.support.waiting import wait_until

yaml = pytest.importorskip("yaml")

COMPOSE: Final[dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: Final[dict[str, dict[str, Any]]] = COMPOSE["services"]
#: Those of redflare that ``up`` starts.
OURS: Final = {name: each for name, each in SERVICES.items() if each["image"] == "redflare" and "profiles" not in each}


def folder_of(service: dict[str, Any]) -> Path | None:
    """The folder of the checkout in which a service works; None: it mounts none."""
    for volume in service.get("volumes", ()):
        source, target, *_ = str(volume).split(":")
        if target == service.get("working_dir"):
            return ROOT / source
    return None


def healthy(operated: OperatedFederation, name: str) -> bool:
    """Whether a service's health check succeeds."""
    _, redflare, *check = OURS[name]["healthcheck"]["test"]
    assert redflare == "redflare"
    return operated.run(*check, REDFLARE_WORKSPACE=str(operated.folder / name)).returncode == 0


def test_everything_that_is_named_is_there() -> None:
    named = {volume.partition(":")[0] for each in SERVICES.values() for volume in each.get("volumes", ())}
    assert {name for name in named if not name.startswith(".")} == set(COMPOSE["volumes"])
    for name, service in SERVICES.items():
        assert set(service.get("depends_on", ())) <= set(SERVICES)
        assert "healthcheck" in service or name == "job"
    assert 'ENTRYPOINT ["redflare"]' in (ROOT / "Dockerfile").read_text()


def test_its_commands_make_a_federation_that_is_healthy_and_runs_the_example(operated: OperatedFederation) -> None:
    for name, service in OURS.items():
        (operated.folder / name).mkdir()
        workspace = str(operated.folder / name)
        operated.start(name, *service["command"], cwd=folder_of(service), REDFLARE_WORKSPACE=workspace)
    for name in OURS:
        wait_until(functools.partial(healthy, operated, name), 40, f"{name} is healthy")

    redflare, job = SERVICES["job"]["entrypoint"]
    ran = operated.run(job, "submit", "means", "--id", "example", "--wait", cwd=folder_of(SERVICES["job"]))

    assert redflare == "redflare"
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "round 5 of 5 finished" in ran.stdout
    assert any("models/" in name for name in operated.json("job", "download", "example")["files"])
    operated("job", "delete", "example")
    for name in OURS:
        operated.end(name)
        assert not healthy(operated, name)
    wait_until(lambda: not operated.processes(), what="no process is left")
