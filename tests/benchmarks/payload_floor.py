"""The payload floor: RESP written by hand on a plain socket, 1 MiB pieces, memory that is used again and again.

Arrays go out from their own memory with ``sendmsg`` and are received where they will stay: one ``recvmsg_into`` per
piece scatters a reply's head, its bytes and its end. Targets are allocated once, so no trip pays for fresh pages. The
reader starts when the writer has finished: nothing overlaps. This is less than any real transport must do.
"""

from __future__ import annotations

import socket
import threading
import time
from typing import Final

import numpy as np
from redis.connection import parse_url

CHUNK: Final = 1 << 20
#: GETs on their way at once; more only fills the server's output buffer.
WINDOW: Final = 4
_WAKE: Final = b"*2\r\n$%d\r\n%s\r\n$1\r\n1\r\n"


class PlainSocket:
    """Just enough RESP for SET, GET, RPUSH and BLPOP on one socket."""

    def __init__(self, url: str) -> None:
        options = parse_url(url)  # type: ignore[no-untyped-call]
        if "path" in options:
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.connect(options["path"])
        else:
            self._socket = socket.create_connection((options.get("host", "localhost"), options.get("port", 6379)))
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        self._socket.close()

    def store(self, name: bytes, view: memoryview, wake: bytes) -> None:
        """SET every piece, then RPUSH ``wake``; the replies are read once at the end."""
        starts = range(0, len(view), CHUNK)
        for number, start in enumerate(starts):
            self._set(b"%s:%d" % (name, number), view[start : start + CHUNK])
        self._command(b"RPUSH", wake, b"1")
        expected = b"+OK\r\n" * len(starts) + b":1\r\n"
        self._expect(expected)

    def load(self, name: bytes, view: memoryview) -> None:
        """GET every piece into its place in ``view``."""
        starts = range(0, len(view), CHUNK)
        asked = [b"*2\r\n$3\r\nGET\r\n" + _bulk(b"%s:%d" % (name, number)) for number in range(len(starts))]
        self._socket.sendall(b"".join(asked[:WINDOW]))
        end = bytearray(2)
        for number, start in enumerate(starts):
            piece = view[start : start + CHUNK]
            self._fill([bytearray(len(b"$%d\r\n" % len(piece))), piece, end])
            if number + WINDOW < len(asked):
                self._socket.sendall(asked[number + WINDOW])

    def wait(self, wake: bytes) -> None:
        """Block until the other side has pushed ``wake``."""
        self._command(b"BLPOP", wake, b"0")
        self._expect(_WAKE % (len(wake), wake))

    def _set(self, key: bytes, piece: memoryview) -> None:
        head = b"*3\r\n$3\r\nSET\r\n" + _bulk(key) + b"$%d\r\n" % len(piece)
        sent = self._socket.sendmsg([head, piece, b"\r\n"])
        if sent < len(head) + len(piece) + 2:
            self._socket.sendall(piece[sent - len(head) :])
            self._socket.sendall(b"\r\n")

    def _command(self, *words: bytes) -> None:
        self._socket.sendall(b"*%d\r\n" % len(words) + b"".join(_bulk(word) for word in words))

    def _expect(self, expected: bytes) -> None:
        answer = bytearray(len(expected))
        self._fill([answer])
        if answer != expected:
            raise RuntimeError(f"the server answered {bytes(answer)[:200]!r}, not {expected[:200]!r}")

    def _fill(self, buffers: list[bytearray | memoryview]) -> None:
        total = sum(len(buffer) for buffer in buffers)
        got = self._socket.recvmsg_into(buffers, 0, socket.MSG_WAITALL)[0]
        if got != total:
            raise RuntimeError(f"the server ended the connection after {got} of {total} bytes")


def _bulk(word: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(word), word)


class _Keys:
    def __init__(self, name: str) -> None:
        self.there, self.back, self.task, self.result = (
            f"context:{name}:{part}".encode() for part in ("there", "back", "task", "result")
        )


class PayloadFloorAgent:
    """Receives an array into its own memory and sends the same memory back."""

    def __init__(self, url: str, nbytes: int, name: str) -> None:
        self._socket = PlainSocket(url)
        self._keys = _Keys(name)
        self._view = np.zeros(nbytes, np.uint8).data
        threading.Thread(target=self._work, name="payload-floor-agent", daemon=True).start()

    def _work(self) -> None:
        while True:
            self._socket.wait(self._keys.task)
            self._socket.load(self._keys.there, self._view)
            self._socket.store(self._keys.back, self._view, self._keys.result)


class PayloadFloorCaller:
    """Sends an array, waits for it to come back and times both."""

    def __init__(self, url: str, nbytes: int, name: str) -> None:
        self._socket = PlainSocket(url)
        self._keys = _Keys(name)
        self._out = np.random.default_rng(1).integers(0, 256, nbytes, np.uint8).data
        self._in = np.zeros(nbytes, np.uint8).data

    def round_trip(self) -> float:
        """Seconds there and back."""
        begin = time.monotonic()
        self._socket.store(self._keys.there, self._out, self._keys.task)
        self._socket.wait(self._keys.result)
        self._socket.load(self._keys.back, self._in)
        seconds = time.monotonic() - begin
        if self._in[::4096] != self._out[::4096]:
            raise RuntimeError("the payload floor brought back other bytes than it sent")
        return seconds
