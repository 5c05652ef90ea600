"""A process with a cell that parks requests or replies to them."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from multiprocessing.connection import Connection

from redflare_broker.cell.cell import LATER, Cell, HandlerResult, Request
from redflare_broker.config.settings import LinkSettings
from redflare_broker.errors import ConfigError
from redflare_broker.transport.server import Server

from tests.programs.child_pipe import ParentPipe


@dataclass(frozen=True, kw_only=True)
class CellArgs:
    """Arguments of the program."""

    url: str
    settings: LinkSettings
    fqcn: str = "server"


class CellProgram:
    """A cell with the topics park, echo and fork."""

    def __init__(self, pipe: ParentPipe, args: CellArgs) -> None:
        self._pipe = pipe
        self._server = Server.connect(args.url, args.settings.connection)
        self.cell = Cell(self._server, args.fqcn, args.settings)
        self.cell.register_request_cb("c", "park", self._park)
        self.cell.register_request_cb("c", "echo", lambda request: ("OK", request.meta, request.data))

    def start(self) -> None:
        self.cell.start()
        self._pipe.send("started", self.cell.epoch)

    def fork(self) -> None:
        """Fork, and let the child use the cell; send ("forked", the child's error)."""
        reading, writing = os.pipe()
        if os.fork() == 0:
            try:
                self.cell.fire_and_forget("c", "note", "server")
                error = "none"
            except ConfigError as exc:
                error = str(exc)
            self.cell.stop()
            os.write(writing, error.encode())
            os._exit(0)
        os.close(writing)
        self._pipe.send("forked", os.read(reading, 10_000).decode())

    def stop(self) -> None:
        self.cell.stop()
        self._server.close()
        self._pipe.send("stopped")

    def _park(self, request: Request) -> HandlerResult:
        self._pipe.send("parked", request.id, request.attempt)
        return LATER


def main(connection: Connection, log: str, args: CellArgs) -> None:
    """Run the cell until the test ends it."""
    logging.basicConfig(level=logging.DEBUG, format="%(asctime)s %(threadName)s %(message)s")
    pipe = ParentPipe(connection, log)
    program = CellProgram(pipe, args)
    program.start()
    pipe.serve({"fork": program.fork})
    program.stop()
