"""The pipes between the demo and one of its processes, seen from there: its standard input and output.

The demo never closes the input while it lives, so its end means that the demo is gone, however it died: no signal
handler and no watching of process ids is as sure as a pipe that the kernel closes. Each byte that comes in is leave to
go on; each line that goes out is a small JSON object that says where the process stands.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable

#: Time for an orderly goodbye once the demo is gone, in seconds; then the process ends whatever it is doing.
GRACE = 4.0


class Lifeline:
    """Watches the input from a thread of its own.

    As a context manager: entering begins to watch; leaving removes the demo's directory if the demo is gone, because it
    may have been killed and cannot do that itself.

    Args:
        on_end: called once, when the demo is gone; should let the process end.
        scratch: the demo's directory.
    """

    def __init__(self, on_end: Callable[[], object], scratch: str) -> None:
        self._on_end = on_end
        self._scratch = scratch
        self._leave = threading.Semaphore(0)
        self._ended = threading.Event()
        self._left = threading.Event()

    def __enter__(self) -> Lifeline:
        threading.Thread(target=self._watch, name="lifeline", daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._ended.is_set():
            self._clear()
        self._left.set()

    def tell(self, state: str, round_number: int, **more: str | float) -> None:
        """Let the demo know, from any thread; nobody listening is no error."""
        try:
            os.write(1, json.dumps({"state": state, "round": round_number, **more}).encode() + b"\n")
        except BrokenPipeError:
            return  # the input has ended too, and the watching thread acts on that

    def wait_for_leave(self) -> None:
        """Block until the demo lets this process go on, or is gone."""
        self._leave.acquire()

    def _watch(self) -> None:
        while leave := os.read(0, 64):
            self._leave.release(len(leave))
        self._ended.set()
        self._leave.release()
        threading.Thread(target=self._end_by_force, name="lifeline-force", daemon=True).start()
        self._on_end()

    def _end_by_force(self) -> None:
        if not self._left.wait(GRACE):
            self._clear()
            os._exit(1)

    def _clear(self) -> None:
        shutil.rmtree(self._scratch, ignore_errors=True)
