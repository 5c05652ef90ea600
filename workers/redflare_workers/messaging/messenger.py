"""``Messenger``: the aux messages and object streams of one engine, and the cell that carries them."""

from __future__ import annotations

from collections.abc import Callable

from redflare_broker.cell.cell import Cell, HandlerResult, Request

from .aux_runner import AuxRunner, ContextMaker
from .object_streamer import ObjectStreamer
from .post import Post
from .switchboard import Switchboard
from .wire import AUX


class Messenger:
    """Aux messages and streams of one engine; handlers may be registered before it is opened.

    Args:
        engine: makes the contexts in which handlers and consumers run.
        name: the name under which its peers know it: that of the site, or the server's.
        resolve: FQCN of a peer's cell by the peer's name; None: there is no such peer.
    """

    def __init__(self, engine: ContextMaker, name: str, resolve: Callable[[str], str | None]) -> None:
        self.name = name
        self.post = Post(name, resolve)
        self.aux = AuxRunner(engine, self.post)
        self.streamer = ObjectStreamer(engine, self.post)
        self._switchboard: Switchboard | None = None

    def open(self, cell: Cell, switchboard: Switchboard | None = None, *, listen: bool = True) -> None:
        """Use a cell, from now on.

        Args:
            switchboard: that of the cell; None: one is made, which must happen before the cell starts.
            listen: hand what comes on to handlers already; else ``listen`` does, and until then it is kept.
        """
        self.post.cell = cell
        self._switchboard = switchboard or Switchboard(cell)
        if listen:
            self.listen()
        else:
            self._switchboard.expect(self.name)

    def listen(self) -> None:
        """Hand what has come, and what comes, on to handlers and consumers."""
        if self._switchboard is not None:
            self._switchboard.connect(self)

    def close(self) -> None:
        """End all streams, and take nothing any more. Again is allowed."""
        self.streamer.shutdown()
        if self._switchboard is not None:
            self._switchboard.disconnect(self)
        self.post.cell = None

    # -- from the switchboard ------------------------------------------------------------------------------------------

    def on_request(self, request: Request) -> HandlerResult:
        """Deal with what came to the cell for this engine; as a handler of the cell's."""
        return self.aux.on_request(request) if request.channel == AUX else self.streamer.on_request(request)

    def __repr__(self) -> str:
        return f"<Messenger of {self.name}>"
