"""``BlockedCalls``: the threads that wait in a cell's requests, until replies come or they give up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from redflare_broker.util.patience import Patience
from redflare_broker.util.wakeup import WakeupEvent

from .request import Reply, ReplyCode

#: Seconds of one wait that has no end.
_LONG: Final = 3600.0


class BlockedCall:
    """One thread that waits for one reply."""

    def __init__(self) -> None:
        self._wakeup = WakeupEvent()
        self._reply: Reply | None = None

    def settle(self, reply: Reply) -> None:
        """Hand over the reply, from any thread; the first one counts."""
        if self._reply is None:
            self._reply = reply
        self._wakeup.set()

    def nudge(self) -> None:
        """Let the thread call ``give_up`` now; from any thread."""
        self._wakeup.set()

    def wait(self, patience: Patience, give_up: Callable[[], str] | None) -> Reply:
        """Wait for the reply, and return it, or one with rc TIMEOUT or ABORTED."""
        while True:
            if self._reply is not None:
                return self._reply
            if give_up is not None and (reason := give_up()):
                return Reply(ReplyCode.ABORTED, {"error": reason})
            if not patience.left:
                return Reply(ReplyCode.TIMEOUT, {"error": f"no reply within {patience.seconds:g} s"})
            with patience.wait(_LONG) as seconds:
                self._wakeup.wait(seconds)


class BlockedCalls:
    """All blocked calls of a cell; thread-safe."""

    def __init__(self) -> None:
        self._calls: set[BlockedCall] = set()

    @contextmanager
    def registered(self, *calls: BlockedCall) -> Iterator[None]:
        """Let ``abort`` and ``nudge`` reach these calls during the context."""
        self._calls.update(calls)
        try:
            yield
        finally:
            self._calls.difference_update(calls)

    def abort(self, reason: str) -> None:
        """End all calls with rc ABORTED."""
        for call in list(self._calls):
            call.settle(Reply(ReplyCode.ABORTED, {"error": reason}))

    def nudge(self) -> None:
        """Let all calls check their ``give_up`` now."""
        for call in list(self._calls):
            call.nudge()
