"""Waiting until sites have joined."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from typing import Final

from ..apis.server_engine_spec import ServerEngineSpec
from ..apis.signal import Signal

#: Seconds between two looks: an engine does not say when somebody joins.
_LOOK_EVERY: Final = 0.2


def wait_for_clients(
    engine: ServerEngineSpec,
    least: int,
    abort_signal: Signal,
    *,
    names: Collection[str] = (),
    timeout: float = 0,
) -> list[str]:
    """Names of the sites that have joined, as soon as there are enough.

    Args:
        engine: who knows them.
        least: how many must have joined.
        abort_signal: ends the waiting.
        names: these must be among them.
        timeout: seconds after which whoever has joined will do; 0: no limit.
    """
    aborted = threading.Event()
    deadline = time.monotonic() + timeout if timeout else None
    with abort_signal.add_callback(aborted.set):
        while True:
            joined = [client.name for client in engine.get_clients()]
            enough = len(joined) >= least and set(names) <= set(joined)
            if enough or aborted.is_set() or (deadline is not None and time.monotonic() >= deadline):
                return joined
            aborted.wait(_LOOK_EVERY)
