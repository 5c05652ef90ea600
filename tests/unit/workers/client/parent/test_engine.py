"""``ClientEngine`` without processes of jobs: arguments, components, messages, and what it says of unknown jobs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from redflare_broker.errors import ConfigError, DecodeError
from redflare_workers.apis import FLContext, Shareable
from redflare_workers.apis.fl_component import FLComponent
from redflare_workers.apis.fl_constant import FLContextKey, ProcessType, ReservedKey, ReturnCode
from redflare_workers.apis.shareable import make_reply
from redflare_workers.client.parent.client_engine import ClientEngine
from redflare_workers.client.parent.run_record import ClientRunInfo
from redflare_workers.protocol.job_control import JobStatus
from redflare_workers.protocol.message import WRONG_SENDER
from redflare_workers.protocol.parent_messages import (
    AbortRequest,
    DeleteRunsRequest,
    DeployRequest,
    SiteReport,
    SiteRequest,
    StartRequest,
)
from redflare_workers.protocol.site_job_status import ClientStatus
from redflare_workers.workspace.site_settings import Site, SiteArgs

from tests.support.cell.cells import Cells, cells_on_fakeredis
from tests.support.cell.messengers import Peer, server_at
from tests.support.cell.streams import Numbers, Sink
from tests.support.federation.client_parents import JOB, META, SITE_1, at_a_cell


@pytest.fixture
def engine(tmp_path: Path) -> ClientEngine:
    return ClientEngine(Site(name=SITE_1), SiteArgs(workspace=tmp_path), 0)


@pytest.fixture
def cells() -> Iterator[Cells]:
    with cells_on_fakeredis() as made:
        yield made


@pytest.fixture
def served(engine: ClientEngine, cells: Cells) -> Iterator[ClientEngine]:
    """An engine with a cell that runs."""
    with at_a_cell(engine, cells) as made:
        yield made


# -- arguments ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, -1])
def test_there_must_be_a_worker(tmp_path: Path, workers: int) -> None:
    with pytest.raises(ValueError, match="workers must be >= 1"):
        ClientEngine(Site(name=SITE_1), SiteArgs(workspace=tmp_path), 0, workers)


@pytest.mark.parametrize("workers", ["5", True, 2.0])
def test_workers_must_be_a_number(tmp_path: Path, workers: Any) -> None:
    with pytest.raises(TypeError, match="workers must be an int"):
        ClientEngine(Site(name=SITE_1), SiteArgs(workspace=tmp_path), 0, workers)


def test_a_client_and_args_as_others_make_them_will_do(tmp_path: Path) -> None:
    engine = ClientEngine(SimpleNamespace(client_name="site-9"), SimpleNamespace(workspace=str(tmp_path)), 0)
    assert (engine.get_client_name(), engine.workers, engine.get_cell()) == ("site-9", 5, None)


def test_an_illegal_name_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"site\.1"):
        Site(name="site.1")


# -- components --------------------------------------------------------------------------------------------------------


class EventRecorder(FLComponent):
    def __init__(self) -> None:
        super().__init__()
        self.events: list[str] = []

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        self.events.append(event_type)


def test_components_are_added_once_found_and_receive_events(engine: ClientEngine) -> None:
    component = EventRecorder()
    engine.add_component("one", component)
    assert engine.get_component("one") is component
    assert engine.get_component("absent") is None
    with engine.new_context() as fl_ctx:
        engine.fire_event("_my_event", fl_ctx)
    assert component.events == ["_my_event"]
    with pytest.raises(TypeError, match="component_id must be a str"):
        engine.add_component(1, component)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="component 'one' exists already"):
        engine.add_component("one", EventRecorder())


def test_a_context_has_engine_name_and_process_type(engine: ClientEngine, tmp_path: Path) -> None:
    with engine.new_context() as fl_ctx:
        assert fl_ctx.get_engine() is engine
        assert fl_ctx.get_identity_name() == SITE_1
        assert fl_ctx.get_prop(ReservedKey.PROCESS_TYPE) == ProcessType.CLIENT_PARENT
        assert fl_ctx.get_prop(FLContextKey.WORKSPACE_ROOT) == str(tmp_path)


def test_the_deployer_can_be_replaced(engine: ClientEngine) -> None:
    class Other:
        def deploy(self, *args: Any) -> str:
            return f"not today, {args[1]}"

    engine.add_component("app_deployer", Other())
    assert engine.deploy_app("app", JOB, META, SITE_1, b"") == f"ERROR: not today, {JOB}"


# -- jobs that are not there -------------------------------------------------------------------------------------------


def test_calls_for_an_unknown_job_get_a_reply(engine: ClientEngine) -> None:
    assert engine.start_app(JOB, META) == ("ERROR: Client app does not exist. Please deploy it before starting client.")
    assert engine.abort_app(JOB) == "Client app has not started."
    assert engine.abort(JOB).how == "not running"
    assert engine.abort_task(JOB) == "Client app has not started."
    assert engine.get_current_run_info(JOB) == ClientRunInfo(job_id=JOB)
    assert engine.get_all_job_ids() == []
    engine.notify_job_status(JOB, ClientStatus.STARTED)
    assert engine.send_to_job(JOB, "c", "t", {}, 1.0).rc == "COMM_ERROR"


def test_resources_of_a_job_are_freed_when_it_does_not_start(engine: ClientEngine) -> None:
    freed: list[Any] = []
    manager = SimpleNamespace(free_resources=lambda resources, token, fl_ctx: freed.append((resources, token)))
    engine.start_app(JOB, META, {"gpus": 1}, "token", manager)
    assert freed == [({"gpus": 1}, "token")]


def test_statuses_have_nvflares_names_and_numbers() -> None:
    words = ["not started", "starting", "started", "stopped", "exception"]
    assert [ClientStatus(number).label for number in range(5)] == words


def test_the_server_is_answered_about_jobs_that_are_not_there(served: ClientEngine, cells: Cells) -> None:
    asker = cells.make("server")

    def ask(request: type[SiteRequest], **meta: Any) -> tuple[str, str]:
        reply = asker.send_request(request.CHANNEL, request.TOPIC, SITE_1, meta, b"no zip", timeout=10)
        return reply.rc, reply.error or str(reply.meta.get("message") or reply.meta)

    assert ask(StartRequest, job=JOB)[0] == "ERROR"
    assert ask(AbortRequest, job=JOB) == ("OK", "Client app has not started.")
    assert ask(DeleteRunsRequest, jobs={JOB: ["a"]}) == ("OK", "There is nothing to delete.")
    rc, error = ask(DeployRequest, job=JOB, app="app", meta=META)
    assert (rc, "is not a zip archive" in error) == ("ERROR", True)


@pytest.mark.parametrize(
    ("request_type", "meta", "error"),
    [
        (StartRequest, {}, "message site/start: job is missing"),
        (StartRequest, {"job": 1}, "message site/start: job must be of type str, but is 1"),
        (StartRequest, {"job": ""}, "message site/start: job must not be empty"),
        (AbortRequest, {}, "message site/abort: job is missing"),
        (AbortRequest, {"job": "../up"}, "job_id '../up' "),
        (DeployRequest, {"job": JOB}, "message site/deploy: app is missing"),
        (DeployRequest, {"job": JOB, "app": "app", "meta": []}, "message site/deploy: meta must be "),
    ],
)
def test_requests_with_bad_fields_are_refused(
    served: ClientEngine, cells: Cells, request_type: type[SiteRequest], meta: dict[str, Any], error: str
) -> None:
    reply = cells.make("server").send_request(request_type.CHANNEL, request_type.TOPIC, SITE_1, meta, timeout=10)
    assert reply.rc == "BAD_REQUEST_DATA"
    assert reply.error.startswith(error)


def test_a_site_obeys_its_server_and_believes_the_processes_of_its_jobs_and_no_other(
    served: ClientEngine, cells: Cells
) -> None:
    for request in (DeployRequest, StartRequest, AbortRequest, DeleteRunsRequest):
        meta = {"job": JOB, "app": "app", "meta": META, "jobs": {}}
        for other in ("site-9", f"server.{JOB}", f"{SITE_1}.{JOB}"):
            cell = cells.make(other)
            assert cell.send_request(request.CHANNEL, request.TOPIC, SITE_1, meta, timeout=10).rc == WRONG_SENDER
            cell.stop()
    status = JobStatus(job=JOB, run="r", status=2).to_meta()
    reply = cells.make("site-9.job").send_request("site", "job_status", SITE_1, status, timeout=10)
    assert (reply.rc, f"may be sent by {SITE_1}.{JOB} only" in reply.error) == (WRONG_SENDER, True)
    assert served.get_cell().faults.totals == {"sent in the name of another": 13}  # type: ignore[union-attr]


def test_a_report_is_received_unchanged() -> None:
    report = SiteReport(site=SITE_1, job=JOB, run="r", status="stopped", exit_code=0, how="killed", at=1.0)
    assert SiteReport.from_meta({**report.to_meta(), "of a later version": 1}) == report
    assert report.final
    for bad in ({}, {**report.to_meta(), "site": 1}, {**report.to_meta(), "exit_code": "0"}):
        with pytest.raises(DecodeError, match="message server/site_report: "):
            SiteReport.from_meta(bad)


# -- messages and streams ----------------------------------------------------------------------------------------------


@pytest.fixture
def server(cells: Cells) -> Iterator[Peer]:
    """A cell in the place of the SP."""
    with server_at(cells, SITE_1) as peer:
        yield peer


def test_aux_messages_go_to_the_server(served: ClientEngine, server: Peer) -> None:
    def answer(topic: str, request: Shareable, fl_ctx: FLContext) -> Shareable:
        peer = fl_ctx.get_peer_context()
        assert peer is not None
        return make_reply(ReturnCode.OK, {"from": peer.get_identity_name(), "asked": request["n"]})

    server.register_aux_message_handler("count", answer)
    with served.new_context() as fl_ctx:
        reply = served.send_aux_request("count", Shareable({"n": 3}), 10.0, fl_ctx)
        assert (reply.get_header("from"), reply.get_header("asked")) == (SITE_1, 3)
        assert served.send_aux_request("count", Shareable({"n": 3}), 0, fl_ctx) == Shareable()
        assert served.fire_and_forget_aux_request("count", Shareable({"n": 3}), fl_ctx) == Shareable()
        assert served.send_aux_request("other", Shareable(), 10.0, fl_ctx).get_return_code() == "TOPIC_UNKNOWN"


def test_the_server_sends_aux_messages_to_a_client_parent(served: ClientEngine, server: Peer) -> None:
    served.register_aux_message_handler("hello", lambda topic, request, fl_ctx: make_reply(ReturnCode.OK))
    with server.new_context() as fl_ctx:
        replies = server.send_aux_request([SITE_1], "hello", Shareable(), 10.0, fl_ctx)
    assert replies[SITE_1].get_return_code() == ReturnCode.OK
    with pytest.raises(ValueError, match="already"):
        served.register_aux_message_handler("hello", lambda **kwargs: Shareable())


def test_streams_go_to_the_server(served: ClientEngine, server: Peer) -> None:
    sink = Sink()
    server.register_stream_processing("files", "*", sink)
    with served.new_context() as fl_ctx:
        rc, _ = served.stream_objects("files", "one", {}, None, Numbers([2, 1, 0]), fl_ctx)
    assert (rc, sink.values) == (ReturnCode.OK, [2, 1, 0])
    served.register_stream_processing("files", "*", Sink())
