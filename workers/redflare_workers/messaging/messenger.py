"""``Messenger``: the aux messages and object streams of one engine, and the cell that carries them."""

from __future__ import annotations

from collections.abc import Callable

from redflare_broker.cell.cell import Cell, HandlerResult, Request

from .aux_runner import AuxRunner, ContextMaker
from .object_streamer import ObjectStreamer
from .peer_sender import PeerSender
from .switchboard import Switchboard
from .wire import AUX


class Messenger:
    """Aux messages and streams of one engine; handlers may be registered before it is opened.

    Args:
        engine: makes the contexts in which handlers and consumers run.
        name: the name under which its peers know it: that of the site, or the server's.
        resolve: returns the FQCN of a peer's cell by the peer's name; None: no peer has that name.
    """

    def __init__(self, engine: ContextMaker, name: str, resolve: Callable[[str], str | None]) -> None:
        self.name = name
        self.sender = PeerSender(name, resolve)
        self.aux = AuxRunner(engine, self.sender)
        self.streamer = ObjectStreamer(engine, self.sender)
        self._switchboard: Switchboard | None = None

    def open(self, cell: Cell, switchboard: Switchboard | None = None, *, listen: bool = True) -> None:
        """Send and receive through a cell, from now on.

        Args:
            switchboard: that of the cell; None: one is made, which must happen before the cell starts.
            listen: hand messages to handlers at once; else they are kept until ``listen`` is called.
        """
        self.sender.cell = cell
        self._switchboard = switchboard or Switchboard(cell)
        if listen:
            self.listen()
        else:
            self._switchboard.expect(self.name)

    def listen(self) -> None:
        """Hand messages to handlers and consumers, those that were kept first."""
        if self._switchboard is not None:
            self._switchboard.connect(self)

    def close(self, *, keep: bool = False) -> None:
        """End all streams, and receive no more messages. May be called again.

        Args:
            keep: leave messages that still come to the next process that has the cell; else they are refused.
        """
        self.streamer.shutdown()
        if self._switchboard is not None:
            self._switchboard.disconnect(self, keep=keep)
        self.sender.cell = None

    # -- from the switchboard ------------------------------------------------------------------------------------------

    def on_request(self, request: Request) -> HandlerResult:
        """Handle a message that came to the cell for this engine."""
        return self.aux.on_request(request) if request.channel == AUX else self.streamer.on_request(request)

    def __repr__(self) -> str:
        return f"<Messenger of {self.name}>"
