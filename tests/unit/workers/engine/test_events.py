"""Events of a run: their handlers, and the props of the context during an event."""

from __future__ import annotations

import copy
import inspect
from dataclasses import dataclass
from typing import Any

import pytest
from redflare_workers.apis import EventType, FedEventHeader, FLComponent, FLContext, FLContextKey, Shareable
from redflare_workers.engine.panic_listener import PanicListener
from redflare_workers.engine.run_engine import RunEngine


class EventRecorder(FLComponent):
    """Records type, data, origin and scope of its events."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[tuple[Any, ...]] = []

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        keys = (FLContextKey.EVENT_DATA, FLContextKey.EVENT_ORIGIN, FLContextKey.EVENT_SCOPE)
        self.events.append((event_type, *map(fl_ctx.get_prop, keys)))


class WarningHandler(FLComponent):
    """Logs a warning at each event, which fires an event too."""

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        if event_type != EventType.WARNING_LOG_AVAILABLE:
            self.log_warning(fl_ctx, f"what about {event_type}?")


def engine_with(**components: FLComponent) -> RunEngine:
    return RunEngine("site-1", "job-1", {}, "CJ", components)


def test_an_event_of_a_handler_does_not_change_the_event_for_later_handlers() -> None:
    recorder, reasons = EventRecorder(), list[str]()
    engine = engine_with(warning=WarningHandler(), recorder=recorder, panics=PanicListener(reasons.append))
    with engine.new_context() as fl_ctx:
        recorder.system_panic("out of memory", fl_ctx)
    assert recorder.events[-1] == (EventType.FATAL_SYSTEM_ERROR, "out of memory", "EventRecorder", "local")
    assert reasons == ["out of memory"]


def test_each_event_has_its_own_id() -> None:
    ids = []

    class Recorder(FLComponent):
        def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
            ids.append(fl_ctx.get_prop(FLContextKey.EVENT_ID))

    engine = engine_with(one=Recorder(), two=Recorder())
    with engine.new_context() as fl_ctx:
        engine.fire_event("a", fl_ctx)
        engine.fire_event("b", fl_ctx)
    assert ids[0] == ids[1] != ids[2] == ids[3]


def test_exceptions_of_handlers_are_in_the_context() -> None:
    class Failing(FLComponent):
        def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
            raise RuntimeError("no GPU")

    engine = engine_with(fails=Failing(), recorder=EventRecorder())
    with engine.new_context() as fl_ctx:
        engine.fire_event("a", fl_ctx)
        assert {name: str(error) for name, error in fl_ctx.get_prop(FLContextKey.EXCEPTIONS).items()} == {
            "Failing": "no GPU"
        }


def test_events_that_fire_themselves_come_to_an_end(caplog: pytest.LogCaptureFixture) -> None:
    fired = []

    class Echo(FLComponent):
        def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
            fired.append(event_type)
            self.fire_event(event_type, fl_ctx)

    engine = engine_with(echo=Echo())
    with engine.new_context() as fl_ctx:
        for _ in range(2):
            fired.clear()
            engine.fire_event("again", fl_ctx)
            assert len(fired) == 21
    assert "events are fired more than 20 deep by their handlers, last again" in caplog.text


def test_a_registered_handler_receives_its_events_instead_of_handle_event() -> None:
    recorder, got = EventRecorder(), list[tuple[str, int]]()

    def handle(event_type: str, fl_ctx: FLContext, times: int) -> None:
        got.append((event_type, times))

    recorder.register_event_handler(["a", "b"], handle, times=3)
    recorder.register_event_handler("a", handle, times=4)
    engine = engine_with(recorder=recorder)
    with engine.new_context() as fl_ctx:
        for event_type in ("a", "b", "c"):
            engine.fire_event(event_type, fl_ctx)
    assert got == [("a", 3), ("b", 3)]
    assert [event_type for event_type, *_ in recorder.events] == ["c"]
    assert set(recorder.get_event_handlers()) == {"a", "b"}


@pytest.mark.parametrize(("event_types", "handler"), [(5, print), ("a", "print"), (("a",), print)])
def test_an_event_handler_must_be_callable(event_types: Any, handler: Any) -> None:
    with pytest.raises(ValueError, match=r"event_types must be|must be callable"):
        EventRecorder().register_event_handler(event_types, handler)


def test_a_federation_event_is_fired_in_this_process() -> None:
    recorder, data = EventRecorder(), Shareable({"x": 1})
    with engine_with(recorder=recorder).new_context() as fl_ctx:
        recorder.fire_fed_event("stats", data, fl_ctx, targets=["site-2"])
        assert recorder.events == [("stats", data, "EventRecorder", "federation")]
        assert data.get_header(FedEventHeader.TARGETS) == ["site-2"]
        with pytest.raises(TypeError, match="event_data must be a Shareable, but got dict"):
            recorder.fire_fed_event("stats", {}, fl_ctx)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="fl_ctx must be an FLContext, but got None"):
        recorder.fire_fed_event("stats", data, None)  # type: ignore[arg-type]


def test_all_components_can_be_listed() -> None:
    recorder = EventRecorder()
    engine = engine_with(recorder=recorder)
    engine.get_all_components().clear()
    assert engine.get_all_components() == {"recorder": recorder}


class Holder(EventRecorder):
    """Takes anything."""

    def __init__(self, *parts: Any, **named: Any) -> None:
        super().__init__()
        self.parts = parts, named


def heard_by(*recorders: EventRecorder, **components: FLComponent) -> list[int]:
    """How often each has heard an event of a run with these components."""
    engine = engine_with(**components)
    with engine.new_context() as fl_ctx:
        engine.fire_event("a", fl_ctx)
    return [len(each.events) for each in recorders]


def test_components_in_the_arguments_of_others_hear_each_event_once() -> None:
    alone, listed, keyed, deep, shared = (EventRecorder() for _ in range(5))
    holder = Holder(alone, [listed, shared], parts={"k": (keyed, Holder(x=deep))}, other=shared)
    recorders = (alone, listed, keyed, deep, shared, holder)
    assert heard_by(*recorders, holder=holder, shared=shared, again=holder) == [1] * 6


def test_components_that_are_given_to_another_hear_an_event_before_it() -> None:
    order: list[str] = []

    class Named(FLComponent):
        def __init__(self, name: str, *parts: FLComponent) -> None:
            self.called = name

        def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
            order.append(self.called)

    heard_by(outer=Named("outer", Named("middle", Named("inner")), Named("second")), last=Named("last"))
    assert order == ["inner", "middle", "second", "outer", "last"]


def test_components_that_join_a_run_bring_those_in_their_arguments() -> None:
    inner = EventRecorder()
    engine = engine_with()
    engine.add_component("late", Holder(inner))
    with engine.new_context() as fl_ctx:
        engine.fire_event("a", fl_ctx)
    assert len(inner.events) == 1


def test_a_handler_that_a_component_in_an_argument_has_registered_is_called() -> None:
    reasons: list[str] = []
    engine = engine_with(holder=Holder([PanicListener(reasons.append)]))
    with engine.new_context() as fl_ctx:
        EventRecorder().system_panic("no disk", fl_ctx)
    assert reasons == ["no disk"]


def test_arguments_that_hold_themselves_or_forbid_attributes_are_no_obstacle() -> None:
    @dataclass(frozen=True)
    class Frozen(FLComponent):
        part: FLComponent

    inner, endless = EventRecorder(), list[Any]()
    endless.append([endless, inner])
    assert heard_by(inner, holder=Holder(endless), frozen=Frozen(inner)) == [1]


def test_a_component_without_a_constructor_takes_no_arguments() -> None:
    class Plain(FLComponent):
        pass

    with pytest.raises(TypeError, match=r"Plain\(\) takes no arguments"):
        Plain(3)
    assert str(inspect.signature(Plain)) == "()"
    assert not inspect.signature(EventRecorder).parameters
    assert list(inspect.signature(Holder).parameters) == ["parts", "named"]


def test_the_log_names_a_component_in_an_argument_by_the_one_that_holds_it(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(FLComponent):
        def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
            raise RuntimeError("no GPU")

    heard_by(holder=Holder(Failing()))
    assert "component 'holder/Failing' failed on event a" in caplog.text


def test_a_copied_component_keeps_those_in_its_arguments() -> None:
    inner = EventRecorder()
    assert heard_by(inner, copy=copy.copy(Holder(inner))) == [1]
