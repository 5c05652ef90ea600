"""A TCP proxy that injects faults of the network."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

Mode = Literal["pass", "drop", "half_open"]

_CHUNK = 1 << 16


class Proxy:
    """Forwards connections on ``port`` to the server of a URL; a change of mode applies to open ones as well.

    ``pass``: forwards. ``drop``: closes what is open and refuses what is new. ``half_open``: keeps connections, accepts
    new ones, and swallows all bytes in silence; they are gone when it passes again.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.url = f"redis://127.0.0.1:{self.port}"
        self._mode: Mode = "pass"
        self._delay = 0.0
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._closed = threading.Event()
        self._spawn(self._accept)

    def pass_through(self) -> None:
        """Forward again; connections that were half open stay broken, new ones work."""
        self._set("pass", 0.0)

    def drop(self) -> None:
        """Close all connections, and every new one at once."""
        self._set("drop", 0.0)
        self._hang_up()

    def delay(self, seconds: float) -> None:
        """Forward all data ``seconds`` late."""
        self._set("pass", seconds)

    def half_open(self) -> None:
        """Keep connections open and drop all bytes."""
        self._set("half_open", 0.0)

    def close(self) -> None:
        """End all connections and threads."""
        self._closed.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._hang_up()
        for thread in self._threads:
            thread.join(10)

    def _set(self, mode: Mode, delay: float) -> None:
        with self._lock:
            self._mode, self._delay = mode, delay

    def _hang_up(self) -> None:
        with self._lock:
            connections, self._open = self._open, set()
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._mode == "drop":
                client.close()
                continue
            try:
                upstream = _connect(self._target)
            except OSError:
                client.close()
                continue
            upstream.settimeout(None)
            for connection in (client, upstream):
                if connection.family != socket.AF_UNIX:
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._open |= {client, upstream}
            ends = threading.Barrier(2)
            self._spawn(self._forward, client, upstream, ends)
            self._spawn(self._forward, upstream, client, ends)

    def _forward(self, source: socket.socket, sink: socket.socket, ends: threading.Barrier) -> None:
        swallowed = False
        try:
            while data := source.recv(_CHUNK):
                swallowed = swallowed or self._mode == "half_open"
                if swallowed:
                    continue  # a gap in the stream can never be forwarded across
                if self._delay:
                    self._closed.wait(self._delay)
                sink.sendall(data)
        except OSError:
            pass
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(threading.BrokenBarrierError):
            ends.wait(10)
        with self._lock:
            self._open.discard(source)
        source.close()

    def _spawn(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, name=f"proxy-{self.port}", daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()


def _connect(url: str) -> socket.socket:
    scheme, _, rest = url.partition("://")
    if scheme == "unix":
        upstream = socket.socket(socket.AF_UNIX)
        try:
            upstream.connect(rest)
        except OSError:
            upstream.close()
            raise
        return upstream
    host, _, port = rest.partition(":")
    return socket.create_connection((host, int(port)), 5)


@contextmanager
def proxy(url: str) -> Iterator[Proxy]:
    """A proxy to the server of a ``redis://host:port`` or ``unix://path`` URL."""
    running = Proxy(url)
    try:
        yield running
    finally:
        running.close()
