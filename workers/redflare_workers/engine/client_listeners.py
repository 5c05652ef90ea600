"""``ClientListeners``: callbacks for when clients join or leave."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class ClientListeners:
    """Callbacks that are called on every change; thread-safe."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._callbacks: dict[object, Callable[[], object]] = {}

    @contextmanager
    def watching(self, fn: Callable[[], object]) -> Iterator[None]:
        """Call ``fn`` on every change during the context."""
        key = object()
        with self._guard:
            self._callbacks[key] = fn
        try:
            yield
        finally:
            with self._guard:
                del self._callbacks[key]

    def changed(self) -> None:
        """Call all callbacks, because a client has joined or left."""
        with self._guard:
            callbacks = list(self._callbacks.values())
        for callback in callbacks:
            callback()
