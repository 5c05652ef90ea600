"""A component fires events through the engine of its context and logs with the context's names."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from redflare_workers.apis import (
    EventType,
    Executor,
    FLComponent,
    FLContext,
    FLContextKey,
    FLContextManager,
    Shareable,
    Signal,
    from_shareable,
    job_component,
    make_reply,
)


class RecordingEngine:
    """Records every event together with the props of its context."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any, Any]] = []

    def fire_event(self, event_type: str, fl_ctx: FLContext) -> None:
        origin, data = fl_ctx.get_prop(FLContextKey.EVENT_ORIGIN), fl_ctx.get_prop(FLContextKey.EVENT_DATA)
        self.events.append((event_type, origin, data))


class Trainer(FLComponent):
    def __init__(self) -> None:
        """Leaves ``super().__init__()`` out, as components in the field do."""


def test_a_method_that_a_call_would_not_run_is_refused_with_its_class() -> None:
    with pytest.raises(TypeError, match=r"Later.execute is an async function, of which a call runs nothing"):

        class Later(Executor):
            async def execute(self, *_: Any) -> Shareable:  # type: ignore[override]
                return make_reply("OK")

    with pytest.raises(TypeError, match=r"Piecemeal.handle_event is a generator function"):

        class Piecemeal(FLComponent):
            def handle_event(self, event_type: str, fl_ctx: FLContext) -> Any:
                yield event_type


def test_a_handler_or_a_maker_that_a_call_would_not_run_is_refused() -> None:
    async def later(*_: Any) -> None: ...

    with pytest.raises(ValueError, match=r"the handler of an event is an async function"):
        Trainer().register_event_handler("a", later)
    with pytest.raises(TypeError, match=r"later is an async function"):
        job_component(later)


@pytest.fixture
def engine() -> RecordingEngine:
    return RecordingEngine()


@pytest.fixture
def fl_ctx(engine: RecordingEngine) -> FLContext:
    return FLContextManager(engine, identity_name="site-1", job_id="job-1").new_context()


def test_an_event_goes_to_the_engine_with_its_origin(engine: RecordingEngine, fl_ctx: FLContext) -> None:
    Trainer().fire_event("my_event", fl_ctx)
    assert engine.events == [("my_event", "Trainer", None)]
    assert fl_ctx.get_prop(FLContextKey.EVENT_SCOPE) == "local"


def test_an_event_without_an_engine_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    Trainer().fire_event("my_event", FLContext())
    assert "event 'my_event' was not delivered" in caplog.text


def test_bad_arguments_of_an_event_are_refused(fl_ctx: FLContext) -> None:
    with pytest.raises(TypeError, match="event_type must be a str, but got int"):
        Trainer().fire_event(1, fl_ctx)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="event_type must not be empty"):
        Trainer().fire_event("", fl_ctx)
    with pytest.raises(TypeError, match="fl_ctx must be an FLContext, but got dict"):
        Trainer().fire_event("my_event", {})  # type: ignore[arg-type]


def test_data_of_an_event_is_in_the_context_only_while_it_fires(engine: RecordingEngine, fl_ctx: FLContext) -> None:
    Trainer().fire_event_with_data("my_event", fl_ctx, FLContextKey.EVENT_DATA, "payload")
    assert engine.events == [("my_event", "Trainer", "payload")]
    assert fl_ctx.get_prop(FLContextKey.EVENT_DATA) is None


def test_a_panic_is_a_fatal_event_with_its_reason(engine: RecordingEngine, fl_ctx: FLContext) -> None:
    Trainer().system_panic("no agent", fl_ctx)
    assert engine.events == [(EventType.FATAL_SYSTEM_ERROR, "Trainer", "no agent")]


def test_a_panic_without_an_engine_is_logged_as_critical(caplog: pytest.LogCaptureFixture) -> None:
    Trainer().system_panic("no agent", FLContext())
    assert [(record.levelno, record.message) for record in caplog.records] == [
        (logging.CRITICAL, "[identity=, run=?]: panic: no agent")
    ]


def test_a_log_line_names_site_job_workflow_peer_and_task(fl_ctx: FLContext, caplog: pytest.LogCaptureFixture) -> None:
    peer_ctx = FLContextManager(identity_name="server", job_id="job-1").new_context()
    fl_ctx.set_peer_context(peer_ctx)
    fl_ctx.set_prop(FLContextKey.WORKFLOW, "fedavg", sticky=False)
    fl_ctx.set_prop(FLContextKey.TASK_NAME, "train", sticky=False)
    fl_ctx.set_prop(FLContextKey.TASK_ID, "t1", sticky=False)
    fl_ctx.set_prop(FLContextKey.TASK_RESULT, make_reply("OK"), sticky=False)
    with caplog.at_level(logging.INFO):
        Trainer().log_info(fl_ctx, "100% done")
    assert caplog.messages == [
        "[identity=site-1, run=job-1, wf=fedavg, peer=server, peer_run=job-1, peer_rc=OK, task_name=train, "
        "task_id=t1]: 100% done"
    ]
    record = caplog.records[0]
    assert record.name.endswith("test_fl_component.Trainer")
    assert record.filename == "test_fl_component.py"


def test_a_log_line_without_a_context_is_the_message(caplog: pytest.LogCaptureFixture) -> None:
    Trainer().log_error(None, "lost")
    assert caplog.messages == ["lost"]


@pytest.mark.parametrize(
    ("method", "level", "event", "tag", "fires"),
    [
        ("log_debug", logging.DEBUG, EventType.DEBUG_LOG_AVAILABLE, "log/debug", False),
        ("log_info", logging.INFO, EventType.INFO_LOG_AVAILABLE, "log/info", False),
        ("log_warning", logging.WARNING, EventType.WARNING_LOG_AVAILABLE, "log/warning", True),
        ("log_error", logging.ERROR, EventType.ERROR_LOG_AVAILABLE, "log/error", True),
        ("log_critical", logging.CRITICAL, EventType.CRITICAL_LOG_AVAILABLE, "log/critical", True),
    ],
)
def test_a_log_call_fires_its_event_when_asked_or_from_warnings_on(
    method: str,
    level: int,
    event: str,
    tag: str,
    fires: bool,
    engine: RecordingEngine,
    fl_ctx: FLContext,
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = getattr(Trainer(), method)
    with caplog.at_level(logging.DEBUG):
        log(fl_ctx, "by default")
        assert len(engine.events) == fires
        engine.events.clear()
        log(fl_ctx, "asked", fire_event=True)
    assert {record.levelno for record in caplog.records} == {level}
    assert [fired for fired, _, _ in engine.events] == [event]
    data = from_shareable(engine.events[0][2]).data
    assert data == {"track_key": tag, "track_value": "[identity=site-1, run=job-1]: asked"}


def test_an_exception_is_logged_and_fired_with_its_traceback(
    engine: RecordingEngine, fl_ctx: FLContext, caplog: pytest.LogCaptureFixture
) -> None:
    try:
        raise ZeroDivisionError("by zero")
    except ZeroDivisionError:
        Trainer().log_exception(fl_ctx, "failed", fire_event=True)
    assert "ZeroDivisionError: by zero" in caplog.text
    assert [event for event, _, _ in engine.events] == [EventType.EXCEPTION_LOG_AVAILABLE]
    text = from_shareable(engine.events[0][2]).data["track_value"]
    assert text.startswith("[identity=site-1, run=job-1]: failed\nTraceback")


def test_an_executor_needs_execute_and_is_safe_at_first(fl_ctx: FLContext) -> None:
    class Echo(Executor):
        def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
            return shareable

    with pytest.raises(TypeError, match="abstract"):
        Executor()  # type: ignore[abstract]
    shareable = Shareable({"a": 1})
    assert Echo().execute("echo", shareable, fl_ctx, Signal()) is shareable
    assert Echo().unsafe is False
