"""The pipes between the demo and one of its processes, seen from the process: standard input and output.

The end of the input means that the demo is gone, however it died (see ``redflare_workers.processes.ending``). Each byte
that comes in is leave to go on; each status goes out as a line of JSON behind ``STATUS``, among the lines of the log.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable

import orjson

from redflare_workers.processes.ending import ProcessEnding

#: A status begins with it; wherever in a line, because output of others may lack its line break.
STATUS = b"\x1eredflare-demo "


class Lifeline:
    """Watches the input from a thread.

    As a context manager: entering begins to watch; leaving removes the demo's directory if the demo is gone, because it
    may have been killed and cannot do that itself. ``stop`` is called once, when the demo is gone, and should let the
    process end.
    """

    def __init__(self, stop: Callable[[], object], scratch: str) -> None:
        self._stop = stop
        self._scratch = scratch
        self._leave = threading.Semaphore(0)
        self._ending = ProcessEnding(self._on_end, on_input=lambda leave: self._leave.release(len(leave)))

    def __enter__(self) -> Lifeline:
        self._ending.watch(signals=False)
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._ending.parent_gone.is_set():
            self._clear()
        self._ending.finish()

    def report(self, state: str, round_number: int, **more: str | float) -> None:
        """Send a status to the demo, from any thread; does nothing if the demo is gone."""
        try:
            os.write(1, STATUS + orjson.dumps({"state": state, "round": round_number, **more}) + b"\n")
        except BrokenPipeError:
            return  # the input has ended too, and the watching thread acts on that

    def wait_for_leave(self) -> None:
        """Block until the demo lets this process go on, or is gone."""
        self._leave.acquire()

    def _on_end(self, _reason: str) -> None:
        self._leave.release()
        self._stop()
        self._clear()

    def _clear(self) -> None:
        shutil.rmtree(self._scratch, ignore_errors=True)
