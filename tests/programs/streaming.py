"""A process that sends a file or objects, or receives them; it tells how much memory a file took."""

from __future__ import annotations

import logging
import re
import threading
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from redflare_broker.cell.cell import Cell
from redflare_broker.config.settings import LinkSettings
from redflare_broker.transport.server import Server
from redflare_workers.apis.fl_constant import ProcessType
from redflare_workers.engine.run_engine import RunEngine
from redflare_workers.messaging import FileStreamer

from tests.programs.child_pipe import ParentPipe
from tests.support.cell.streams import Numbers, Sink


@dataclass(frozen=True, kw_only=True)
class StreamArgs:
    """Arguments of the program."""

    url: str
    settings: LinkSettings
    name: str
    folder: str
    #: the object of a stream that is never answered, and the one that is told of
    hold_at: int = -1
    tell_at: int = -1


class StreamProgram(RunEngine):
    """An engine that sends and receives files and objects.

    Each message about a file names what was received and the peak of memory.
    """

    def __init__(self, pipe: ParentPipe, args: StreamArgs) -> None:
        super().__init__(args.name, "job", {}, ProcessType.CLIENT_JOB, {})
        self._pipe = pipe
        self._folder = args.folder
        self._server = Server.connect(args.url, args.settings.connection)
        self._cell = Cell(self._server, f"{args.name}.job", args.settings)
        self.register_stream_processing("objects", "t", sink := Sink(self._take), self._streamed, values=sink.values)
        self._hold_at, self._tell_at = args.hold_at, args.tell_at
        self.messenger.open(self._cell)
        FileStreamer.register_stream_processing(
            self.new_context(), "files", "t", args.folder, self._received, self._chunk
        )
        self._before = 0
        self._chunks = 0
        self._cell.start()
        pipe.send("started", self._cell.epoch)

    def find_peer(self, name: str) -> str | None:
        return f"{name}.job"

    def usual_targets(self) -> list[str]:
        return ["server"]

    def measure(self) -> None:
        """From now on, memory counts."""
        Path("/proc/self/clear_refs").write_text("5")
        self._before = _resident("VmRSS")
        self._pipe.send("measures")

    def send(self, path: str) -> None:
        """Send a file; tells ("sent", return code, peak of memory)."""
        rc, _ = FileStreamer.stream_file("files", "t", {}, ["server"], path, self.new_context())
        self._pipe.send("sent", rc, _resident("VmHWM") - self._before)

    def stream(self, values: list[Any], window: int, timeout: float = 5.0) -> None:
        """Stream objects; tells ("sent", return code, return codes of the replies)."""
        producer = Numbers(values, window=window, timeout=timeout)
        rc, _ = self.stream_objects("objects", "t", {}, ["server"], producer, self.new_context())
        self._pipe.send("sent", rc, producer.codes())

    def stop(self) -> None:
        self.messenger.close()
        self._cell.stop()
        self._server.close()
        self._pipe.send("stopped")

    def _chunk(self, *args: Any) -> None:
        self._chunks += 1
        if self._chunks % 16 == 0:
            self._pipe.send("chunks", self._chunks)

    def _take(self, value: Any) -> None:
        if value == self._tell_at:
            self._pipe.send("at", value)
        if value == self._hold_at:
            self._pipe.send("holds", value)
            threading.Event().wait()

    def _streamed(self, stream_ctx: dict[str, Any], fl_ctx: Any, values: list[Any]) -> None:
        self._pipe.send("streamed", stream_ctx["__RC__"], values)

    def _received(self, stream_ctx: dict[str, Any], fl_ctx: Any) -> None:
        self._pipe.send(
            "received",
            FileStreamer.get_rc(stream_ctx),
            FileStreamer.get_file_location(stream_ctx),
            _resident("VmHWM") - self._before,
        )


def _resident(field: str) -> int:
    status = Path("/proc/self/status").read_text()
    found = re.search(field + r":\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


def main(connection: Connection, log: str, args: StreamArgs) -> None:
    """Run the engine until the test ends it."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(threadName)s %(message)s")
    pipe = ParentPipe(connection, log)
    program = StreamProgram(pipe, args)
    pipe.serve({"send": program.send, "measure": program.measure, "stream": program.stream})
    program.stop()
