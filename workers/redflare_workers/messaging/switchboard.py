"""``Switchboard``: hands a cell's messages to the engine that they are for; simulated sites share a cell."""

from __future__ import annotations

import threading
from functools import partial
from typing import Protocol

from redflare_broker.cell.cell import EARLY, Cell, HandlerResult, Request
from redflare_broker.util.thread_pool import ElasticThreadPool

from redflare_workers.apis.fl_constant import ReturnCode

from .wire import AUX, STREAM, TO


class Receiver(Protocol):
    """An engine's end of the messages that come to a cell."""

    #: under which peers address the engine
    name: str

    def on_request(self, request: Request) -> HandlerResult:
        """Handle a message; as a handler of the cell's."""


class Switchboard:
    """The engines that are reached through one cell; make it before the cell starts. Thread-safe."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self._guard = threading.Lock()
        self._connected: dict[str, Receiver] = {}
        #: by name: requests that came before the engine was connected
        self._expected: dict[str, list[Request]] = {}
        cell.register_request_cb(AUX, "*", self._on_request)
        cell.register_request_cb(STREAM, "*", self._on_request)

    def expect(self, name: str) -> None:
        """Keep messages to that name until it is connected."""
        with self._guard:
            self._expected.setdefault(name, [])

    def connect(self, receiver: Receiver) -> None:
        """Hand messages to a receiver, from now on.

        Raises:
            ValueError: another one of that name is connected.
        """
        name = receiver.name
        with self._guard:
            if self._connected.setdefault(name, receiver) is not receiver:
                raise ValueError(f"{name!r} is connected to cell {self.cell.fqcn} already; names must differ")
            early = self._expected.pop(name, [])
        if early:
            pool = ElasticThreadPool(f"redflare-early-{name}")
            for request in early:
                pool.submit(partial(request.reply_from, receiver.on_request))
            # it finishes the submitted calls, and ends
            pool.close(0.0)

    def disconnect(self, receiver: Receiver, *, keep: bool = False) -> None:
        """Hand no more messages to a receiver; ``keep``: as after ``expect``, instead of refusing them."""
        with self._guard:
            if self._connected.get(receiver.name) is receiver:
                del self._connected[receiver.name]
                if keep:
                    self._expected[receiver.name] = []

    def has(self, name: str) -> bool:
        """Whether an engine of that name is reached through this cell."""
        with self._guard:
            return name in self._connected or name in self._expected

    def _on_request(self, request: Request) -> HandlerResult:
        name = request.meta.get(TO)
        with self._guard:
            receiver = self._connected.get(name) if isinstance(name, str) else None
            if receiver is None and name in self._expected:
                self._expected[name].append(request)
                return EARLY
        if receiver is not None:
            return receiver.on_request(request)
        text = f"{name!r:.200} is not reached through cell {self.cell.fqcn}"
        request.note_fault("unknown name", f"{request.channel}/{request.topic} from {request.origin}: {text}")
        return ReturnCode.SERVICE_UNAVAILABLE, {"error": text}, None

    def __repr__(self) -> str:
        return f"<Switchboard of {self.cell.fqcn}: {sorted(self._connected)}>"
