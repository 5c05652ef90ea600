"""``Signal``: tells that something must stop, and runs callbacks then.

After NVFlare's ``Signal``, whose readers poll it. Here, a reader that blocks adds a callback instead of polling.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

logger = logging.getLogger(__name__)


class SignalCallback:
    """A callback of a Signal; runs at most once. As a context manager, it is removed at the end."""

    __slots__ = ("_fn", "_lock", "_signals", "_spent")

    def __init__(self, fn: Callable[[], object], signals: list[Signal]) -> None:
        self._fn = fn
        self._signals = signals
        self._lock = threading.Lock()
        self._spent = False

    def __repr__(self) -> str:
        return f"SignalCallback({self._fn!r}, {'spent' if self._spent else 'waiting'})"

    def __enter__(self) -> SignalCallback:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.remove()

    def remove(self) -> None:
        """Remove the callback, if it has not run; does not wait for it if it is running in another thread."""
        self._spend()

    def _run(self) -> None:
        """Call it, unless it was called or removed; only one of several threads that trigger at once does."""
        if not self._spend():
            return
        try:
            self._fn()
        except Exception:
            logger.exception("a callback of a signal failed: %r", self._fn)

    def _spend(self) -> bool:
        with self._lock:
            first, self._spent = not self._spent, True
        for signal in self._signals:
            signal._forget(self)
        return first


class Signal:
    """Something that is triggered with a value, by itself or through its parent.

    Args:
        parent: a Signal that triggers this one too; the value and the time stay the parent's.
    """

    def __init__(self, parent: Signal | None = None) -> None:
        self._parent = parent
        self._lock = threading.Lock()
        self._triggered = False
        self._value: Any = None
        self._trigger_time: float | None = None
        # a dict, because callbacks run in the order in which they were added
        self._callbacks: dict[SignalCallback, None] = {}

    def __repr__(self) -> str:
        return f"Signal(triggered={self.triggered}, value={self._value!r}, callbacks={len(self._callbacks)})"

    def trigger(self, value: Any) -> None:
        """Trigger with ``value``; callbacks run in this thread before it returns."""
        with self._lock:
            self._value = value
            self._trigger_time = time.time()
            self._triggered = True
            callbacks = list(self._callbacks)
        for callback in callbacks:
            callback._run()

    def reset(self, value: Any = None) -> None:
        """Make this signal untriggered again; a triggered parent still counts. Spent callbacks do not come back."""
        with self._lock:
            self._value = value
            self._trigger_time = None
            self._triggered = False

    @property
    def value(self) -> Any:
        """The value of the last ``trigger`` or ``reset`` of this signal itself."""
        return self._value

    @property
    def trigger_time(self) -> float | None:
        """When this signal itself was triggered, in seconds since the epoch, or None."""
        return self._trigger_time

    @property
    def triggered(self) -> bool:
        """Whether this signal or one of its parents is triggered."""
        return any(signal._triggered for signal in self._lineage())

    def add_callback(self, fn: Callable[[], object]) -> SignalCallback:
        """Add a function to be called once, when this signal or a parent is triggered; at once if one is already.

        It runs in the thread that triggers, so it must be quick and must not block: set an event, wake a connection.
        What it raises is logged and kept from the other callbacks. Call ``remove()`` of the returned handle in the end.
        """
        signals = list(self._lineage())
        callback = SignalCallback(fn, signals)
        for signal in signals:
            with signal._lock:
                signal._callbacks[callback] = None
        # checked after it was added: a trigger in between is seen here or has run it already, and it runs only once;
        # one that has run before it was added to all signals is removed from the rest here
        if callback._spent or self.triggered:
            callback._run()
        return callback

    def _forget(self, callback: SignalCallback) -> None:
        with self._lock:
            self._callbacks.pop(callback, None)

    def _lineage(self) -> Iterator[Signal]:
        signal: Signal | None = self
        while signal is not None:
            yield signal
            signal = signal._parent
