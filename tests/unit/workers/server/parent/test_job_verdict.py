"""How a job ends, by the reports of its processes and the number of sites left."""

from __future__ import annotations

import pytest
from redflare_broker.job_store.record import ABNORMAL, ABORTED, COMPLETED, EXECUTION_EXCEPTION, SiteState
from redflare_workers.jobs.job_meta import JobMeta
from redflare_workers.protocol import job_outcome
from redflare_workers.server.parent.job_verdict import MAX_RESTARTS, confirmations, shortage, verdict_of
from redflare_workers.server.parent.run_state import RunState
from redflare_workers.workspace.job_report import ServerJobReport

SITES = ("a", "b", "c")


def reported(
    status: str = "", reason: str = "", *, resumes: bool | None = False, parent_gone: bool = False
) -> ServerJobReport:
    return ServerJobReport(run="r", status=status, reason=reason, resumes=resumes, parent_gone=parent_gone)


def ends_as(report: ServerJobReport, code: int = 0, *, parent_restarted: bool = False) -> str | None:
    state = RunState(job="job-1").with_report(report)
    verdict = verdict_of(report, state, code, parent_restarted=parent_restarted)
    return verdict.status if verdict else None


@pytest.mark.parametrize(
    ("report", "status"),
    [
        pytest.param(reported(job_outcome.COMPLETED), COMPLETED, id="it came to its end"),
        pytest.param(reported(job_outcome.ABORTED), ABORTED, id="it was aborted"),
        pytest.param(reported(job_outcome.FAILED), EXECUTION_EXCEPTION, id="a component panicked"),
        pytest.param(reported(), EXECUTION_EXCEPTION, id="it died and cannot resume"),
        pytest.param(reported(resumes=None), None, id="it died before it began"),
        pytest.param(reported(resumes=True), None, id="it died and can resume"),
        pytest.param(reported(job_outcome.FENCED, resumes=True), None, id="another has taken over and is gone too"),
    ],
)
def test_outcome_of_a_job_whose_server_has_exited(report: ServerJobReport, status: str | None) -> None:
    assert ends_as(report, -9) == status


def test_a_server_is_not_started_again_for_ever() -> None:
    state = RunState(job="job-1", restarts=MAX_RESTARTS, resumes=True)
    verdict = verdict_of(reported(resumes=None), state, -9, ("last words",))
    assert verdict is not None
    assert verdict.status == EXECUTION_EXCEPTION
    assert verdict.reason == (
        "the job's server died (killed by SIGKILL); giving up after 3 restarts\nthe end of its log:\nlast words"
    )


@pytest.mark.parametrize(
    ("report", "status"),
    [
        pytest.param(reported(resumes=True), None, id="it was killed with its parent and resumes"),
        pytest.param(reported(job_outcome.STOPPED, resumes=True, parent_gone=True), None, id="it left its job"),
        pytest.param(reported(job_outcome.ABORTED, parent_gone=True), ABNORMAL, id="it could not leave it"),
        pytest.param(reported(), ABNORMAL, id="it was killed with its parent"),
        pytest.param(reported(resumes=None), None, id="it was killed with its parent before it began"),
        pytest.param(reported(job_outcome.COMPLETED), COMPLETED, id="it came to its end all the same"),
    ],
)
def test_outcome_of_a_job_whose_parent_was_restarted(report: ServerJobReport, status: str | None) -> None:
    assert ends_as(report, parent_restarted=True) == status


def test_a_job_continues_while_enough_sites_are_left() -> None:
    meta = JobMeta(name="job", min_clients=2)
    assert shortage(meta, SITES, {"a": "no device"}) == ""
    assert shortage(meta, SITES, {"a": "no device", "b": "no data"}) == (
        "too few sites left, 1 of at least 2: a: no device; b: no data"
    )


def test_a_job_does_not_continue_without_a_mandatory_site() -> None:
    meta = JobMeta(name="job", min_clients=1, mandatory_clients=("b",))
    assert shortage(meta, SITES, {"a": "no device"}) == ""
    assert shortage(meta, SITES, {"b": "no data"}) == "mandatory site failed: b: no data"


def ended(how: str, agents: dict[str, str]) -> SiteState:
    return SiteState(status="stopped", how=how, agents=agents)


def test_the_reason_of_an_abort_names_the_sites_that_confirmed_it() -> None:
    sites = {
        "a": ended("cooperative", {"a--trainer": "left"}),
        "b": ended("killed", {"b--x": "connected"}),
        "c": ended("", {}),
    }
    sites["f"] = ended("cooperative", {"f--trainer": "killed", "f--other": "never"})
    text = confirmations("cooperative", sites, {"e", "d"})
    assert text == (
        "confirmed: cooperative at server, a, f (agent f--trainer killed); killed at b (agent b--x connected); "
        "not running at c; "
        "no reply from d, e, aborted there on reconnect"
    )
