"""What a site's audit log has of the apps that it takes and refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import pytest
from redflare_workers.audit.audit_files import audit_files, audit_folder, read_entries
from redflare_workers.audit.audit_log import AuditLog
from redflare_workers.audit.entry import AuditEntry
from redflare_workers.client.parent.client_engine import ClientEngine
from redflare_workers.jobs import pack_files
from redflare_workers.workspace.site_settings import Site, SiteArgs

from tests.support.federation.client_parents import JOB, META, SITE_1, app_of, client_config
from tests.support.file_limit import files_end_at

SHIPPED: Final = json.dumps(client_config("redflare_workers.ipc.exchanger.IPCExchanger")).encode()
PLAIN: Final = pack_files({"config/config_fed_client.json": SHIPPED})
OURS: Final = {**META, "submission": "5be1"}
HEAD: Final = f"7 {'a' * 64}"


@pytest.fixture
def engine(tmp_path: Path) -> ClientEngine:
    """A client parent that does not run, with an audit log."""
    made = ClientEngine(Site(name=SITE_1), SiteArgs(workspace=tmp_path, server_name="hub"))
    made.processes.audit = AuditLog(audit_folder(tmp_path), {"site": SITE_1})
    return made


def entries(engine: ClientEngine) -> list[AuditEntry]:
    return list(read_entries(audit_folder(engine.processes.workspace)))[1:]


def test_an_app_that_is_taken_and_deleted_has_its_entries(engine: ClientEngine) -> None:
    assert engine.deploy_app("app", JOB, OURS, SITE_1, PLAIN, server_head=HEAD) == ""
    engine.delete_run(JOB)
    engine.delete_run(JOB)
    deploy, delete = entries(engine)
    assert (deploy.action, deploy.by, deploy.claimed) == ("deploy", "hub", True)
    assert deploy.subject == delete.subject == {"job": JOB, "submission": "5be1"}
    assert deploy.facts == {"app": "app", "heads": {"hub": HEAD}}
    assert delete.action == "delete"


def test_an_app_that_the_site_does_not_allow_has_an_entry_with_the_reason(engine: ClientEngine) -> None:
    reply = engine.deploy_app("app", JOB, OURS, SITE_1, app_of("Adding"))
    [refuse] = entries(engine)
    assert refuse.action == "refuse"
    assert "mine.Adding" in refuse.reason
    assert refuse.reason in reply


def test_an_abort_that_comes_before_the_start_has_an_entry(engine: ClientEngine) -> None:
    engine.deploy_app("app", JOB, OURS, SITE_1, PLAIN)
    engine.begin_abort(JOB, "aborted by ann", bar=True)
    abort = entries(engine)[-1]
    assert (abort.action, abort.reason) == ("abort", "aborted by ann; it had not begun here")


def test_a_site_whose_log_cannot_be_written_takes_no_app_until_it_can(engine: ClientEngine) -> None:
    engine.deploy_app("app", JOB, OURS, SITE_1, PLAIN)
    [path] = audit_files(audit_folder(engine.processes.workspace))
    with files_end_at(path.stat().st_size):
        engine.delete_run(JOB)
        reply = engine.deploy_app("app", "job-2", OURS, SITE_1, PLAIN)
        assert "ERROR: job 'job-2' cannot be deployed: the audit log" in reply
        assert not (engine.processes.workspace / "job-2").exists()
    assert engine.deploy_app("app", "job-2", OURS, SITE_1, PLAIN) == ""
    assert [entry.action for entry in entries(engine)] == ["deploy", "delete", "refuse", "deploy"]
