"""``FLComponent``: base of all components: gets and fires events, and logs with the context's names.

After NVFlare's ``FLComponent``. Its constructor does nothing, so a subclass that forgets ``super().__init__()`` works.
"""

from __future__ import annotations

import inspect
import logging
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any, Final, Self, TypeVar

from redflare_broker.util.plain_function import check_overrides, why_not_plain

from .dxo import DXO, DataKind
from .event_type import EventType
from .fl_constant import EventScope, FedEventHeader, FLContextKey, LogMessageTag
from .fl_context import FLContext
from .shareable import Shareable

EventHandler = Callable[..., object]

Made = TypeVar("Made", bound=Callable[..., Any])

logger = logging.getLogger(__name__)

#: Attribute of what ``job_component`` has marked; it holds the object itself, so that nothing inherits the mark.
_MARK: Final = "__job_component__"
#: Event and tag that a log call fires, by level.
_LOG_EVENTS: Final = {
    logging.DEBUG: (EventType.DEBUG_LOG_AVAILABLE, LogMessageTag.DEBUG),
    logging.INFO: (EventType.INFO_LOG_AVAILABLE, LogMessageTag.INFO),
    logging.WARNING: (EventType.WARNING_LOG_AVAILABLE, LogMessageTag.WARNING),
    logging.ERROR: (EventType.ERROR_LOG_AVAILABLE, LogMessageTag.ERROR),
    logging.CRITICAL: (EventType.CRITICAL_LOG_AVAILABLE, LogMessageTag.CRITICAL),
}


def job_component(made: Made) -> Made:
    """Mark a class or function that is no ``FLComponent`` as one that jobs may name, as a decorator.

    Patterns of an allow-list reach components and what is marked, nothing else. A subclass is not marked.

    Raises:
        TypeError: it is a function of which a call makes nothing.
    """
    if why := why_not_plain(made):
        raise TypeError(f"{made.__name__} is {why}")
    setattr(made, _MARK, made)
    return made


def is_job_component(made: object) -> bool:
    """Whether patterns of an allow-list reach it: it is a class of components, or marked by ``job_component``."""
    return (inspect.isclass(made) and issubclass(made, FLComponent)) or getattr(made, _MARK, None) is made


def log_prefix(fl_ctx: FLContext | None) -> str:
    """Return the prefix of log lines, ``"[identity=site-1, run=job-1, ...]: "``; ``""`` without a context."""
    if fl_ctx is None:
        return ""
    names = {"identity": fl_ctx.get_identity_name(), "run": fl_ctx.get_job_id() or "?"}
    names["wf"] = fl_ctx.get_prop(FLContextKey.WORKFLOW)
    peer_ctx = fl_ctx.get_peer_context()
    if peer_ctx is not None:
        names["peer"] = peer_ctx.get_identity_name() or "?"
        names["peer_run"] = peer_ctx.get_job_id() or "?"
    result = fl_ctx.get_prop(FLContextKey.TASK_RESULT)
    if isinstance(result, Shareable):
        names["peer_rc"] = result.get_return_code()
    names["task_name"] = fl_ctx.get_prop(FLContextKey.TASK_NAME)
    names["task_id"] = fl_ctx.get_prop(FLContextKey.TASK_ID)
    return f"[{', '.join(f'{name}={value}' for name, value in names.items() if value is not None)}]: "


def components_in(value: object, _entered: set[int] | None = None) -> Iterator[FLComponent]:
    """Yield the components in a value, which may be one, or hold some in lists, tuples, sets and dicts; each once.

    Those in the arguments of a component's constructor come before it.
    """
    entered = set() if _entered is None else _entered
    if not isinstance(value, _HOLDERS) or id(value) in entered:
        return
    entered.add(id(value))
    if isinstance(value, FLComponent):
        inside: Iterable[object] = value._components_in_arguments
    else:
        inside = value.values() if isinstance(value, dict) else value
    for each in inside:
        # one of many numbers costs no more than this
        if isinstance(each, _HOLDERS):
            yield from components_in(each, entered)
    if isinstance(value, FLComponent):
        yield value


class FLComponent:
    """Base of executors, controllers, filters and all other components of a job.

    Components that are given to its constructor, themselves or in lists and dicts, take part in the run with it.
    """

    _components_in_arguments: tuple[FLComponent, ...] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        check_overrides(cls)

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        if (args or kwargs) and cls.__init__ is object.__init__:
            raise TypeError(f"{cls.__name__}() takes no arguments")
        self = super().__new__(cls)
        if given := tuple(components_in((args, kwargs))):
            # also where a subclass forbids to set attributes
            self.__dict__["_components_in_arguments"] = given
        return self

    @property
    def name(self) -> str:
        """Name under which this component's events are fired: that of its class."""
        return type(self).__name__

    @cached_property
    def logger(self) -> logging.Logger:
        """The logger of this component, called after its class."""
        return logging.getLogger(f"{type(self).__module__}.{type(self).__qualname__}")

    @cached_property
    def _event_handlers(self) -> dict[str, list[tuple[EventHandler, dict[str, Any]]]]:
        return {}

    def register_event_handler(self, event_types: str | list[str], handler: EventHandler, **kwargs: Any) -> None:
        """Have ``handler(event_type, fl_ctx, **kwargs)`` called for these events, and ``handle_event`` for all others.

        A handler that is registered for an event already stays so, once.

        Raises:
            ValueError: the types are not strings, or the handler cannot be called.
        """
        if not isinstance(event_types, str | list):
            raise ValueError(f"event_types must be a str or a list of them, but got {type(event_types).__name__}")
        if not callable(handler):
            raise ValueError(f"the handler of an event must be callable, but is {handler!r}")
        if why := why_not_plain(handler):
            raise ValueError(f"the handler of an event is {why}")
        for event_type in [event_types] if isinstance(event_types, str) else event_types:
            handlers = self._event_handlers.setdefault(event_type, [])
            if all(known != handler for known, _ in handlers):
                handlers.append((handler, kwargs))

    def get_event_handlers(self) -> dict[str, list[tuple[EventHandler, dict[str, Any]]]]:
        """Return the registered handlers with their arguments, by event type."""
        return self._event_handlers

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Handle an event of the run that has no registered handler; override it to react to events."""

    def fire_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Have the engine hand an event to every component of this process.

        If the context has no engine, no component gets it, which is logged as an error.

        Raises:
            TypeError: an argument is of the wrong type.
            ValueError: the event type is empty.
        """
        if not isinstance(event_type, str):
            raise TypeError(f"event_type must be a str, but got {type(event_type).__name__}")
        if not event_type:
            raise ValueError("event_type must not be empty; use one of EventType or a name of your own")
        if not isinstance(fl_ctx, FLContext):
            raise TypeError(f"fl_ctx must be an FLContext, but got {type(fl_ctx).__name__}")
        self._fire(event_type, EventScope.LOCAL, fl_ctx)

    def _fire(self, event_type: str, scope: str, fl_ctx: FLContext) -> None:
        fl_ctx.set_prop(FLContextKey.EVENT_SCOPE, scope, private=True, sticky=False)
        fl_ctx.set_prop(FLContextKey.EVENT_ORIGIN, self.name, private=True, sticky=False)
        engine = fl_ctx.get_engine()
        if engine is None:
            self.log_error(
                fl_ctx, f"event {event_type!r} was not delivered: the context has no engine", fire_event=False
            )
        else:
            engine.fire_event(event_type, fl_ctx)

    def fire_event_with_data(self, event_type: str, fl_ctx: FLContext, key: str, data: Any) -> None:
        """Fire an event while the context holds ``data`` under ``key``; set the key to None afterwards."""
        try:
            fl_ctx.set_prop(key, data, private=True, sticky=False)
            self.fire_event(event_type, fl_ctx)
        finally:
            fl_ctx.set_prop(key, None, private=True, sticky=False)

    def fire_fed_event(
        self, event_type: str, event_data: Shareable, fl_ctx: FLContext, targets: list[str] | None = None
    ) -> None:
        """Fire an event that is meant for other sites too. Only components of this process get it.

        Raises:
            TypeError: an argument is of the wrong type.
        """
        if not isinstance(fl_ctx, FLContext):
            raise TypeError(f"fl_ctx must be an FLContext, but got {type(fl_ctx).__name__}")
        if not isinstance(event_data, Shareable):
            raise TypeError(f"event_data must be a Shareable, but got {type(event_data).__name__}")
        event_data.set_header(FedEventHeader.TARGETS, targets)
        fl_ctx.set_prop(FLContextKey.EVENT_DATA, event_data, private=True, sticky=False)
        self._fire(event_type, EventScope.FEDERATION, fl_ctx)

    def system_panic(self, reason: str, fl_ctx: FLContext) -> None:
        """End the run: fire FATAL_SYSTEM_ERROR with the reason as its data; without an engine, log it as critical."""
        if fl_ctx.get_engine() is None:
            self.log_critical(fl_ctx, f"panic: {reason}", fire_event=False)
            return
        fl_ctx.set_prop(FLContextKey.EVENT_DATA, reason, private=True, sticky=False)
        self.fire_event(EventType.FATAL_SYSTEM_ERROR, fl_ctx)

    def log_debug(self, fl_ctx: FLContext | None, msg: str, fire_event: bool = False) -> None:
        """Log at DEBUG with the context's names; ``fire_event`` also fires DEBUG_LOG_AVAILABLE."""
        self._log(logging.DEBUG, fl_ctx, msg, fire_event)

    def log_info(self, fl_ctx: FLContext | None, msg: str, fire_event: bool = False) -> None:
        """Log at INFO with the context's names; ``fire_event`` also fires INFO_LOG_AVAILABLE."""
        self._log(logging.INFO, fl_ctx, msg, fire_event)

    def log_warning(self, fl_ctx: FLContext | None, msg: str, fire_event: bool = True) -> None:
        """Log at WARNING with the context's names; ``fire_event`` also fires WARNING_LOG_AVAILABLE."""
        self._log(logging.WARNING, fl_ctx, msg, fire_event)

    def log_error(self, fl_ctx: FLContext | None, msg: str, fire_event: bool = True) -> None:
        """Log at ERROR with the context's names; ``fire_event`` also fires ERROR_LOG_AVAILABLE."""
        self._log(logging.ERROR, fl_ctx, msg, fire_event)

    def log_critical(self, fl_ctx: FLContext | None, msg: str, fire_event: bool = True) -> None:
        """Log at CRITICAL with the context's names; ``fire_event`` also fires CRITICAL_LOG_AVAILABLE."""
        self._log(logging.CRITICAL, fl_ctx, msg, fire_event)

    def log_exception(self, fl_ctx: FLContext | None, msg: str, fire_event: bool = False) -> None:
        """Log at ERROR with the traceback of the exception being handled; may fire EXCEPTION_LOG_AVAILABLE."""
        text = log_prefix(fl_ctx) + msg
        self.logger.error("%s", text, exc_info=sys.exception(), stacklevel=2)
        if fire_event:
            details = f"{text}\n{traceback.format_exc()}"
            self._fire_log_event(EventType.EXCEPTION_LOG_AVAILABLE, LogMessageTag.EXCEPTION, details, fl_ctx)

    def _log(self, level: int, fl_ctx: FLContext | None, msg: str, fire_event: bool) -> None:
        if not fire_event and not self.logger.isEnabledFor(level):
            return
        text = log_prefix(fl_ctx) + msg
        # 3 frames up is the component that logs
        self.logger.log(level, "%s", text, stacklevel=3)
        if fire_event:
            self._fire_log_event(*_LOG_EVENTS[level], text, fl_ctx)

    def _fire_log_event(self, event_type: str, tag: str, text: str, fl_ctx: FLContext | None) -> None:
        """Fire a log event in the shape of NVFlare's text analytics; without an engine, do nothing."""
        if fl_ctx is None or fl_ctx.get_engine() is None:
            return
        data = {"track_key": tag, "track_value": text}
        record = DXO(DataKind.ANALYTIC, data, meta={"analytics_data_type": "TEXT"}).to_shareable()
        fl_ctx.set_prop(FLContextKey.EVENT_DATA, record, private=True, sticky=False)
        self.fire_event(event_type, fl_ctx)


#: What may be a component or hold some.
_HOLDERS: Final = (FLComponent, list, tuple, set, frozenset, dict)
# for a class without a constructor of its own, which takes no arguments
FLComponent.__new__.__signature__ = inspect.Signature([inspect.Parameter("cls", inspect.Parameter.POSITIONAL_ONLY)])  # type: ignore[attr-defined]
