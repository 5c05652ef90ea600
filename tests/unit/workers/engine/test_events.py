"""Events of a run: who hears them, and what the context says while they do."""

from __future__ import annotations

from typing import Any

import pytest
from redflare_workers.apis import EventType, FedEventHeader, FLComponent, FLContext, FLContextKey, Shareable
from redflare_workers.engine.panic_listener import PanicListener
from redflare_workers.engine.run_engine import RunEngine


class Ear(FLComponent):
    """Lists types, data, origins and scopes of what its ``handle_event`` hears."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[tuple[Any, ...]] = []

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        keys = (FLContextKey.EVENT_DATA, FLContextKey.EVENT_ORIGIN, FLContextKey.EVENT_SCOPE)
        self.heard.append((event_type, *map(fl_ctx.get_prop, keys)))


class Loud(FLComponent):
    """Answers each event with a warning, which is an event too."""

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        if event_type != EventType.WARNING_LOG_AVAILABLE:
            self.log_warning(fl_ctx, f"what about {event_type}?")


def engine_with(**components: FLComponent) -> RunEngine:
    return RunEngine("site-1", "job-1", {}, "CJ", components)


def test_an_event_of_a_handler_does_not_change_the_event_for_later_handlers() -> None:
    ear, reasons = Ear(), list[str]()
    engine = engine_with(loud=Loud(), ear=ear, panics=PanicListener(reasons.append))
    with engine.new_context() as fl_ctx:
        ear.system_panic("out of memory", fl_ctx)
    assert ear.heard[-1] == (EventType.FATAL_SYSTEM_ERROR, "out of memory", "Ear", "local")
    assert reasons == ["out of memory"]


def test_each_event_has_its_own_id() -> None:
    ids = []

    class Notes(FLComponent):
        def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
            ids.append(fl_ctx.get_prop(FLContextKey.EVENT_ID))

    engine = engine_with(one=Notes(), two=Notes())
    with engine.new_context() as fl_ctx:
        engine.fire_event("a", fl_ctx)
        engine.fire_event("b", fl_ctx)
    assert ids[0] == ids[1] != ids[2] == ids[3]


def test_exceptions_of_handlers_are_in_the_context() -> None:
    class Fails(FLComponent):
        def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
            raise RuntimeError("no GPU")

    engine = engine_with(fails=Fails(), ear=Ear())
    with engine.new_context() as fl_ctx:
        engine.fire_event("a", fl_ctx)
        assert {name: str(error) for name, error in fl_ctx.get_prop(FLContextKey.EXCEPTIONS).items()} == {
            "Fails": "no GPU"
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


def test_a_registered_handler_hears_its_events_instead_of_handle_event() -> None:
    ear, got = Ear(), list[tuple[str, int]]()

    def handle(event_type: str, fl_ctx: FLContext, times: int) -> None:
        got.append((event_type, times))

    ear.register_event_handler(["a", "b"], handle, times=3)
    ear.register_event_handler("a", handle, times=4)
    engine = engine_with(ear=ear)
    with engine.new_context() as fl_ctx:
        for event_type in ("a", "b", "c"):
            engine.fire_event(event_type, fl_ctx)
    assert got == [("a", 3), ("b", 3)]
    assert [event_type for event_type, *_ in ear.heard] == ["c"]
    assert set(ear.get_event_handlers()) == {"a", "b"}


@pytest.mark.parametrize(("event_types", "handler"), [(5, print), ("a", "print"), (("a",), print)])
def test_an_event_handler_must_be_callable(event_types: Any, handler: Any) -> None:
    with pytest.raises(ValueError, match=r"event_types must be|must be callable"):
        Ear().register_event_handler(event_types, handler)


def test_a_federation_event_is_heard_in_this_process() -> None:
    ear, data = Ear(), Shareable({"x": 1})
    with engine_with(ear=ear).new_context() as fl_ctx:
        ear.fire_fed_event("stats", data, fl_ctx, targets=["site-2"])
        assert ear.heard == [("stats", data, "Ear", "federation")]
        assert data.get_header(FedEventHeader.TARGETS) == ["site-2"]
        with pytest.raises(TypeError, match="event_data must be a Shareable, but got dict"):
            ear.fire_fed_event("stats", {}, fl_ctx)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="fl_ctx must be an FLContext, but got None"):
        ear.fire_fed_event("stats", data, None)  # type: ignore[arg-type]


def test_all_components_can_be_listed() -> None:
    ear = Ear()
    engine = engine_with(ear=ear)
    engine.get_all_components().clear()
    assert engine.get_all_components() == {"ear": ear}
