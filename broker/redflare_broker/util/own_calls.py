"""``OwnCalls``: lets a signal handler end what the thread that it interrupts is in the middle of.

A handler runs in the main thread, between any two steps of it. If it waited there for a lock that the interrupted call
holds, it would wait for ever.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class OwnCalls:
    """The threads that are inside calls of one object."""

    def __init__(self) -> None:
        self._inside: list[int] = []

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Note that this thread is inside."""
        ident = threading.get_ident()
        self._inside.append(ident)
        try:
            yield
        finally:
            self._inside.remove(ident)

    def run(self, call: Callable[[], object], name: str) -> None:
        """Make a call now, or in a thread of that name, without waiting, when this thread is inside: a handler's."""
        if threading.get_ident() in self._inside:
            threading.Thread(target=call, name=name).start()
        else:
            call()

    def __repr__(self) -> str:
        return f"<OwnCalls, {len(self._inside)} threads are inside>"
