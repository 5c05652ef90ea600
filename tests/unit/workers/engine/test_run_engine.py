"""The engine of a run: contexts, components, events, panics."""

from __future__ import annotations

import pytest
from redflare_workers.apis.event_type import EventType
from redflare_workers.apis.fl_component import FLComponent
from redflare_workers.apis.fl_constant import FLContextKey, ProcessType, ReservedKey
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.engine.panic_listener import PanicListener
from redflare_workers.engine.run_engine import RunEngine


class EventRecorder(FLComponent):
    def __init__(self) -> None:
        super().__init__()
        self.events: list[str] = []

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        self.events.append(event_type)


class FailingHandler(FLComponent):
    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        raise RuntimeError("what?")


@pytest.fixture
def recorder() -> EventRecorder:
    return EventRecorder()


@pytest.fixture
def engine(recorder: EventRecorder) -> RunEngine:
    return RunEngine(
        "site-1",
        "job-1",
        {"min_clients": 2},
        ProcessType.CLIENT_JOB,
        {"failing": FailingHandler(), "recorder": recorder, "x": 7},
    )


def test_a_context_has_the_names_of_site_and_job(engine: RunEngine) -> None:
    with engine.new_context() as fl_ctx:
        assert fl_ctx.get_identity_name() == "site-1"
        assert fl_ctx.get_job_id() == "job-1"
        assert fl_ctx.get_engine() is engine
        assert fl_ctx.get_prop(FLContextKey.JOB_META) == {"min_clients": 2}
        assert fl_ctx.get_prop(ReservedKey.RUN_ABORT_SIGNAL) is engine.abort_signal
        assert fl_ctx.get_prop(ReservedKey.PROCESS_TYPE) == ProcessType.CLIENT_JOB


def test_sticky_props_reach_later_contexts(engine: RunEngine) -> None:
    with engine.new_context() as first:
        first.set_prop("round", 3, private=True, sticky=True)
        first.set_prop("here", 1, private=True, sticky=False)
    with engine.new_context() as second:
        assert (second.get_prop("round"), second.get_prop("here")) == (3, None)


def test_every_component_receives_events_although_one_fails(
    engine: RunEngine, recorder: EventRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    with engine.new_context() as fl_ctx:
        engine.fire_event("something", fl_ctx)
    assert recorder.events == ["something"]
    assert "component 'failing' failed on event something" in caplog.text


def test_a_component_can_be_added_while_an_event_is_handled(engine: RunEngine) -> None:
    late = EventRecorder()

    class Adding(FLComponent):
        def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
            if fl_ctx.get_engine().get_component("late") is None:
                fl_ctx.get_engine().add_component("late", late)

    engine.add_component("adds", Adding())
    with engine.new_context() as fl_ctx:
        engine.fire_event("one", fl_ctx)
        engine.fire_event("two", fl_ctx)
    assert late.events == ["two"]


def test_components_are_found_by_their_id(engine: RunEngine, recorder: EventRecorder) -> None:
    assert engine.get_component("recorder") is recorder
    assert engine.get_component("x") == 7
    assert engine.get_component("nobody") is None
    with pytest.raises(ValueError, match="'recorder'"):
        engine.add_component("recorder", object())
    with pytest.raises(TypeError, match="int"):
        engine.add_component(5, object())  # type: ignore[arg-type]


def test_a_panic_reaches_its_listener_with_the_reason(engine: RunEngine, recorder: EventRecorder) -> None:
    reasons: list[str] = []
    engine.add_component("panics", PanicListener(reasons.append))
    with engine.new_context() as fl_ctx:
        recorder.system_panic("out of memory", fl_ctx)
    assert reasons == ["out of memory"]
    assert recorder.events == [EventType.FATAL_SYSTEM_ERROR]
