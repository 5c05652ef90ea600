"""How a job ends, by what its processes have said and how many sites are left."""

from __future__ import annotations

import pytest
from redflare_broker.job_store.record import ABNORMAL, ABORTED, COMPLETED, EXECUTION_EXCEPTION
from redflare_workers.jobs.job_meta import JobMeta
from redflare_workers.protocol import job_outcome
from redflare_workers.server.parent.job_verdict import MAX_RESTARTS, confirmations, shortage, verdict_of
from redflare_workers.server.parent.run_state import RunState
from redflare_workers.workspace.server_job_args import ServerJobReport

SITES = ("a", "b", "c")


def said(
    status: str = "", reason: str = "", *, resumes: bool | None = False, parent_gone: bool = False
) -> ServerJobReport:
    return ServerJobReport(run="r", status=status, reason=reason, resumes=resumes, parent_gone=parent_gone)


def ends_as(told: ServerJobReport, code: int = 0, *, parent_restarted: bool = False) -> str | None:
    state = RunState(job="job-1").heard(told)
    verdict = verdict_of(told, state, code, parent_restarted=parent_restarted)
    return verdict.status if verdict else None


@pytest.mark.parametrize(
    ("told", "status"),
    [
        pytest.param(said(job_outcome.COMPLETED), COMPLETED, id="it came to its end"),
        pytest.param(said(job_outcome.ABORTED), ABORTED, id="it was aborted"),
        pytest.param(said(job_outcome.FAILED), EXECUTION_EXCEPTION, id="a component panicked"),
        pytest.param(said(), EXECUTION_EXCEPTION, id="it has died and cannot resume"),
        pytest.param(said(resumes=None), None, id="it has died before it began"),
        pytest.param(said(resumes=True), None, id="it has died and can resume"),
        pytest.param(said(job_outcome.FENCED, resumes=True), None, id="another has taken over and is gone too"),
    ],
)
def test_how_a_job_ends_whose_server_is_gone(told: ServerJobReport, status: str | None) -> None:
    assert ends_as(told, -9) == status


def test_a_server_is_not_started_again_for_ever() -> None:
    state = RunState(job="job-1", restarts=MAX_RESTARTS, resumes=True)
    verdict = verdict_of(said(resumes=None), state, -9, ("last words",))
    assert verdict is not None
    assert verdict.status == EXECUTION_EXCEPTION
    assert verdict.reason == (
        "its server has died, ended by SIGKILL, after 3 restarts\nthe end of its log:\nlast words"
    )


@pytest.mark.parametrize(
    ("told", "status"),
    [
        pytest.param(said(resumes=True), None, id="it was killed with its parent and resumes"),
        pytest.param(said(job_outcome.STOPPED, resumes=True, parent_gone=True), None, id="it left its job"),
        pytest.param(said(job_outcome.ABORTED, parent_gone=True), ABNORMAL, id="it could not leave it"),
        pytest.param(said(), ABNORMAL, id="it was killed with its parent"),
        pytest.param(said(resumes=None), None, id="it was killed with its parent before it began"),
        pytest.param(said(job_outcome.COMPLETED), COMPLETED, id="it came to its end all the same"),
    ],
)
def test_how_a_job_ends_whose_parent_was_started_again(told: ServerJobReport, status: str | None) -> None:
    assert ends_as(told, parent_restarted=True) == status


def test_a_job_goes_on_while_enough_sites_are_left() -> None:
    meta = JobMeta(name="job", min_clients=2)
    assert shortage(meta, SITES, {"a": "no device"}) == ""
    assert shortage(meta, SITES, {"a": "no device", "b": "no data"}) == (
        "it cannot go on, 1 of at least 2 sites are left: a: no device; b: no data"
    )


def test_a_job_does_not_go_on_without_a_mandatory_site() -> None:
    meta = JobMeta(name="job", min_clients=1, mandatory_clients=("b",))
    assert shortage(meta, SITES, {"a": "no device"}) == ""
    assert shortage(meta, SITES, {"b": "no data"}) == "it cannot go on without b, mandatory: b: no data"


def test_who_has_confirmed_an_abort_and_how() -> None:
    told = confirmations("cooperative", {"a": "cooperative", "b": "killed", "c": ""}, {"e", "d"})
    assert told == (
        "confirmed: cooperative at server, a; killed at b; not running at c; "
        "no answer from d, e, told to end when connected again"
    )
