"""Waiting until sites have joined."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection

from redflare_broker.job_state.awaited_sites import AwaitedSites

from redflare_workers.apis.server_engine_spec import ServerEngineSpec
from redflare_workers.apis.signal import Signal

logger = logging.getLogger(__name__)


def wait_for_clients(
    engine: ServerEngineSpec,
    least: int,
    abort_signal: Signal,
    *,
    names: Collection[str] = (),
    timeout: float = 0,
) -> list[str]:
    """Wait until enough sites have joined, and log for whom; return the names of all that have.

    Args:
        abort_signal: ends the waiting.
        names: these must be among them.
        timeout: seconds after which whoever has joined will do; 0: no limit.
    """
    changed = threading.Event()
    deadline = time.monotonic() + timeout if timeout else None
    told: AwaitedSites | None = None
    with abort_signal.add_callback(changed.set), engine.watch_clients(changed.set):
        while True:
            changed.clear()
            joined = [client.name for client in engine.get_clients()]
            left = None if deadline is None else deadline - time.monotonic()
            enough = len(joined) >= least and set(names) <= set(joined)
            if enough or abort_signal.triggered or (left is not None and left <= 0):
                return joined
            missing = tuple(name for name in names if name not in joined)
            awaited = AwaitedSites(sites=missing, least=max(least - len(joined), len(missing)))
            if awaited != told:
                logger.info("the workflow is %s", awaited.describe(0))
                told = awaited
            changed.wait(left)
