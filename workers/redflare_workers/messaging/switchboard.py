"""``Switchboard``: hands what comes to a cell on to the engine that it is for; simulated sites share a cell."""

from __future__ import annotations

import logging
import threading
from functools import partial
from typing import TYPE_CHECKING

from redflare_broker.cell.cell import LATER, Cell, HandlerResult, ReplyCode, Request
from redflare_broker.errors import BlobMissing
from redflare_broker.util.thread_pool import ElasticThreadPool

from redflare_workers.apis.fl_constant import ReturnCode

from .wire import AUX, STREAM, TO

if TYPE_CHECKING:
    from .messenger import Messenger

logger = logging.getLogger(__name__)


class Switchboard:
    """The engines that are reached through one cell; make it before the cell starts. Thread-safe."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self._guard = threading.Lock()
        self._connected: dict[str, Messenger] = {}
        #: by name: requests that came too early
        self._expected: dict[str, list[Request]] = {}
        cell.register_request_cb(AUX, "*", self._on_request)
        cell.register_request_cb(STREAM, "*", self._on_request)

    def expect(self, name: str) -> None:
        """Keep what comes for that name until it is connected."""
        with self._guard:
            self._expected.setdefault(name, [])

    def connect(self, messenger: Messenger) -> None:
        """Hand what comes for a messenger on to it, from now on.

        Raises:
            ValueError: there is one of that name.
        """
        name = messenger.name
        with self._guard:
            if self._connected.setdefault(name, messenger) is not messenger:
                raise ValueError(f"{name!r} is connected to cell {self.cell.fqcn} already; names must differ")
            early = self._expected.pop(name, [])
        if early:
            pool = ElasticThreadPool(f"redflare-early-{name}")
            for request in early:
                pool.submit(partial(_deal, messenger, request))
            # it runs what was submitted, and ends
            pool.close(0.0)

    def disconnect(self, messenger: Messenger) -> None:
        """Hand nothing on to it any more."""
        with self._guard:
            if self._connected.get(messenger.name) is messenger:
                del self._connected[messenger.name]

    def has(self, name: str) -> bool:
        """Whether an engine of that name is reached through this cell."""
        with self._guard:
            return name in self._connected or name in self._expected

    def _on_request(self, request: Request) -> HandlerResult:
        name = request.meta.get(TO)
        with self._guard:
            messenger = self._connected.get(name) if isinstance(name, str) else None
            if messenger is None and name in self._expected:
                self._expected[name].append(request)
                return LATER
        if messenger is not None:
            return messenger.on_request(request)
        text = f"{name!r:.200} is not reached through cell {self.cell.fqcn}"
        logger.warning("%s/%s from %s: %s", request.channel, request.topic, request.origin, text)
        return ReturnCode.SERVICE_UNAVAILABLE, {"error": text}, None

    def __repr__(self) -> str:
        return f"<Switchboard of {self.cell.fqcn}: {sorted(self._connected)}>"


def _deal(messenger: Messenger, request: Request) -> None:
    """What a cell does with a request, for one that came too early for it."""
    try:
        said = messenger.on_request(request)
        if said is not LATER:
            request.reply(*(said or ()))
    except BlobMissing as error:
        request.reply(ReplyCode.BLOB_MISSING, {"error": str(error)})
    except Exception as error:
        logger.exception("%s: %r could not be dealt with", messenger, request)
        request.reply(ReplyCode.HANDLER_EXCEPTION, {"error": f"{type(error).__name__}: {error}"[:2000]})
