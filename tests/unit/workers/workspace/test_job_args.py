"""The files through which a parent and the process of a job pass arguments and the outcome."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from redflare_broker.config.link_address import LinkAddress
from redflare_workers.server.parent.job_files import prepare
from redflare_workers.workflow.model_store import save_model
from redflare_workers.workspace.job_args import ClientJobArgs, JobArgs, ServerJobArgs
from redflare_workers.workspace.job_report import ClientJobReport, ServerJobReport
from redflare_workers.workspace.run_folder import RunFolder
from redflare_workers.workspace.site_settings import SiteArgs


def args_of(kind: str, workspace: Path) -> JobArgs:
    given = {"workspace": str(workspace), "job_id": "job-1", "run": "r", "redis_url": "redis://:secret@example.org"}
    return ServerJobArgs(**given) if kind == "server" else ClientJobArgs(**given, site="site-1")  # type: ignore[arg-type]


def test_a_prepared_run_is_for_its_owner_only(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, "job-1")
    prepare(folder, "app", ("site-1",), {})
    assert {path for path in (folder.path, *folder.path.rglob("*")) if path.stat().st_mode & 0o077} == set()


def test_a_model_of_a_run_is_for_its_owner_only(tmp_path: Path) -> None:
    save_model(tmp_path / "models" / "best", {"w": np.zeros(1)})
    assert (tmp_path / "models" / "best").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("kind", ["server", "client"])
def test_no_arguments_show_a_url_in_their_repr(tmp_path: Path, kind: str) -> None:
    site = SiteArgs(redis_url="redis://:secret@example.org")
    address = LinkAddress(redis_url="redis://:secret@example.org")
    assert "secret" not in f"{args_of(kind, tmp_path)!r} {site!r} {address!r}"


@pytest.mark.parametrize("kind", ["server", "client"])
def test_arguments_are_read_by_their_owner_only_and_once(tmp_path: Path, kind: str) -> None:
    args = args_of(kind, tmp_path)
    args.folder.path.mkdir()
    args.write()
    path = Path(args.command[-1])
    assert path.stat().st_mode & 0o077 == 0, "the URL may have a password"
    assert type(args).take(path) == args
    assert not path.exists(), "the folder is what an operator downloads"


def test_a_report_of_an_earlier_process_is_not_taken_for_that_of_the_present_one(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, "job-1")
    folder.path.mkdir()
    assert ClientJobReport.find(folder, "r1") is None
    ClientJobReport(run="r1", exit_code=9, reason="aborted").write(folder)
    assert ClientJobReport.find(folder, "r1") == ClientJobReport(run="r1", exit_code=9, reason="aborted")
    assert ClientJobReport.find(folder, "r2") is None
    ServerJobReport(run="r3", resumes=True).write(folder)
    assert ServerJobReport.read(folder, "r3").resumes is True
    assert ServerJobReport.read(folder, "r4") == ServerJobReport(run="r4")
