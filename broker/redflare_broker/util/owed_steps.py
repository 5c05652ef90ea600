"""``OwedSteps``: what could not be done while Redis was away, and is done with a later heartbeat."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final

from redflare_broker.errors import RedflareError, Unavailable

logger = logging.getLogger(__name__)

#: Steps that are remembered; the oldest are forgotten first.
_MOST: Final = 10_000


class OwedSteps:
    """Steps that nobody waits for, by name; each is tried until it is done. Thread-safe."""

    def __init__(self) -> None:
        self._steps: dict[str, Callable[[], object]] = {}
        self._guard = threading.Lock()
        self._working = False

    def add(self, name: str, step: Callable[[], object]) -> None:
        """Remember a step, which must be safe to run twice and make one attempt."""
        with self._guard:
            self._steps[name] = step
            if len(self._steps) > _MOST:
                logger.warning("more than %d steps wait for Redis; %r is given up", _MOST, next(iter(self._steps)))
                del self._steps[next(iter(self._steps))]

    def begin(self) -> None:
        """Try all of them once, in a thread of their own: a node that is away must not hold up the heartbeats."""
        with self._guard:
            if self._working or not self._steps:
                return
            self._working = True
        threading.Thread(target=self._work, name="redflare-owed-steps", daemon=True).start()

    def _work(self) -> None:
        try:
            with self._guard:
                steps = list(self._steps.items())
            for name, step in steps:
                if self._is_over(name, step):
                    with self._guard:
                        self._steps.pop(name, None)
        finally:
            with self._guard:
                self._working = False

    def _is_over(self, name: str, step: Callable[[], object]) -> bool:
        """Try a step; False: it is still owed."""
        try:
            step()
        except Unavailable as exc:
            logger.debug("%s waits: %s", name, exc)
            return False
        except RedflareError as exc:
            logger.warning("%s is given up: %s", name, exc)
        else:
            logger.info("%s is done now", name)
        return True

    def __len__(self) -> int:
        return len(self._steps)

    def __repr__(self) -> str:
        return f"<OwedSteps, {len(self)} to do>"
