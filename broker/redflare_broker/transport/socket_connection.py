"""``SocketConnection``: a connection that speaks RESP2 on a server's socket itself.

redis-py opens, authenticates and wraps the connection (TLS, Unix, Sentinel, Cluster); from then on its socket is ours.
That halves the CPU per command, nothing is ever resent behind the caller's back, payload moves between the socket and
the arrays' own memory, and another thread can end a blocked wait by shutting the socket down.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
from collections.abc import Iterable, Sequence
from typing import Final, NoReturn, Protocol

import hiredis

from redflare_broker.errors import Unavailable

from .connection import Connection
from .functions import as_functions
from .replies import (
    ASK_CERTIFICATE,
    ASK_TLS,
    Command,
    RedisReply,
    ReplyError,
    check_away,
    missing,
    require,
    sentence,
    wrong_size,
)

#: Payload commands in flight: enough to keep both sides busy, few enough to bound the buffers of server and kernel.
_WINDOW: Final = 4
#: Bytes read at once, kept per connection; a reply of a small task needs one read.
_READ_SIZE: Final = 1 << 14
#: Bytes read at once where a payload's header is expected; what follows the header has to be copied.
_HEADER_SIZE: Final = 1 << 12
#: Views per sendmsg, below IOV_MAX (1024 on Linux and macOS).
_VIEWS_PER_SEND: Final = 1000
_MISSING: Final = object()


class HasSocket(Protocol):
    """The part of a connected redis-py connection that ``SocketConnection`` needs."""

    _sock: socket.socket

    def disconnect(self) -> None: ...


class SocketConnection(Connection):
    """RESP2 spoken on the socket of a connected redis-py connection, which it owns from now on."""

    def __init__(self, raw: HasSocket, node: str, timeout: float) -> None:
        self.node = node
        self._connection = raw
        self._sock = raw._sock
        self._default_timeout = timeout
        self._timeout = timeout
        self._sock.settimeout(timeout)
        self._line_end = memoryview(bytearray(2))
        self._gathers = not isinstance(self._sock, ssl.SSLSocket)
        self._reader = hiredis.Reader(replyError=ReplyError, notEnoughData=_MISSING)
        self._buffer = memoryview(bytearray(_READ_SIZE))
        #: bytes of a ``load`` that were read with a header and belong to what follows
        self._rest = self._buffer[:0]
        #: keeps the socket from being closed, and its number reused, while another thread shuts it down; re-entrant
        #: because a signal handler may interrupt a connection in the midst of its close
        self._guard = threading.RLock()
        self.interrupted = False
        #: made by the first ``listen``: what is sent into the second ends the wait for the socket and the first
        self._waker: tuple[socket.socket, socket.socket] | None = None
        self._woken = False
        #: until then, what ends the connection may be that only one of both speaks TLS
        self._answered = False

    def send(self, commands: Sequence[Command]) -> None:
        try:
            self._allow(max(self._timeout, self._default_timeout))
            if self.functions:
                commands = as_functions(commands)
            self._sock.sendall(b"".join([_pack(command) for command in commands]))
        except BaseException as error:
            self._fail(error)

    def receive(self, timeout: float | None = None) -> RedisReply:
        try:
            reply = self._parse(self._default_timeout if timeout is None else timeout)
            if isinstance(reply, ReplyError):
                check_away(reply, self.node)
            return reply
        except BaseException as error:
            self._fail(error)

    def listen(self, timeout: float) -> RedisReply:
        try:
            if not self._reader.has_data() and not self._await_bytes(timeout):
                return None
            reply = self._parse(max(timeout, 0.001))
            if isinstance(reply, ReplyError):
                check_away(reply, self.node)
            return reply
        except TimeoutError:
            return None
        except BaseException as error:
            self._fail(error)

    def wake(self) -> None:
        with self._guard:
            self._woken = True
            if self._waker is not None:
                with contextlib.suppress(OSError):
                    self._waker[1].send(b"w")

    def _await_bytes(self, timeout: float) -> bool:
        """Wait until there is something to read; False on timeout, or when ``wake`` was called."""
        with self._guard:
            woken, self._woken = self._woken, False
            if self.closed or self.interrupted:
                return True
            if self._waker is None:
                # after the check: nobody would close that of a closed connection
                self._waker = socket.socketpair()
                for end in self._waker:
                    end.setblocking(False)
            waker = self._waker[0]
        if isinstance(self._sock, ssl.SSLSocket) and self._sock.pending():
            return not woken
        poll = select.poll()
        for watched in (self._sock, waker):
            poll.register(watched, select.POLLIN)
        ready = [] if woken else poll.poll(max(timeout, 0.001) * 1000)
        with self._guard:
            self._woken = False
            with contextlib.suppress(OSError):
                waker.recv(1 << 10)
        return any(number != waker.fileno() for number, _ in ready)

    def store(self, chunks: Iterable[tuple[str, Sequence[memoryview]]], ttl_ms: int) -> None:
        refusals: list[ReplyError] = []
        expiry = b"\r\n$2\r\nPX\r\n$%d\r\n%d\r\n" % (len(str(ttl_ms)), ttl_ms)
        in_flight = 0
        try:
            self._allow(self._default_timeout)
            for key, views in chunks:
                name = key.encode()
                size = sum(view.nbytes for view in views)
                head = b"*5\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n" % (len(name), name, size)
                self._send_views([memoryview(head), *views, memoryview(expiry)])
                in_flight += 1
                if in_flight == _WINDOW:
                    self._collect(refusals)
                    in_flight -= 1
                if refusals:
                    break
            for _ in range(in_flight):
                self._collect(refusals)
        except BaseException as error:
            self._fail(error)
        for refusal in refusals:
            require(refusal, self.node)

    def load(self, chunks: Sequence[tuple[str, Sequence[memoryview]]]) -> None:
        asked = 0
        try:
            self._allow(self._default_timeout)
            for index, (key, views) in enumerate(chunks):
                ahead = chunks[asked : index + _WINDOW]
                self.send([("GET", name) for name, _ in ahead])
                asked += len(ahead)
                self._read_value(key, views)
            if self._rest:
                raise EOFError(f"{len(self._rest)} bytes nobody asked for")
        except BaseException as error:
            self._fail(error)

    def interrupt(self) -> None:
        with self._guard:
            self.interrupted = True
            if not self.closed:
                # Not SSLSocket's own shutdown, which would take the TLS state away under the reading thread.
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def close(self) -> None:
        with self._guard:
            if not self.closed:
                self.closed = True
                self._connection.disconnect()
                for end in self._waker or ():
                    end.close()

    def _allow(self, timeout: float) -> None:
        """Set how long the socket may be silent from now on; a system call only when it changes."""
        if timeout != self._timeout:
            self._sock.settimeout(timeout)
            self._timeout = timeout

    def _parse(self, timeout: float) -> RedisReply:
        reply = self._reader.gets()
        if reply is _MISSING:
            self._allow(timeout)
            while reply is _MISSING:
                count = self._receive_into(self._buffer)
                self._reader.feed(self._buffer, 0, count)  # type: ignore[arg-type]  # it takes any buffer
                reply = self._reader.gets()
            self._answered = True
        return reply  # type: ignore[no-any-return]

    def _receive_into(self, view: memoryview) -> int:
        count = self._sock.recv_into(view)
        if not count:
            raise EOFError("it closed the connection")
        return count

    def _collect(self, refusals: list[ReplyError]) -> None:
        reply = self.receive()
        if isinstance(reply, ReplyError):
            refusals.append(reply)

    def _send_views(self, views: list[memoryview]) -> None:
        """Send views from where they are; TLS has no sendmsg, and copies in any case."""
        if not self._gathers:
            self._sock.sendall(b"".join(views))
            return
        first = 0
        while first < len(views):
            sent = self._sock.sendmsg(views[first : first + _VIEWS_PER_SEND])
            while first < len(views) and sent >= views[first].nbytes:
                sent -= views[first].nbytes
                first += 1
            if sent:
                views[first] = views[first][sent:]

    def _read_value(self, key: str, views: Sequence[memoryview]) -> None:
        """Read the reply of one GET by hand, its payload straight into the views."""
        line = self._read_line()
        if line == b"$-1":
            raise missing(self.node, key)
        if line[:1] != b"$":
            refusal = ReplyError(line[1:].decode(errors="replace"))
            check_away(refusal, self.node)
            require(refusal, self.node)
        size = sum(view.nbytes for view in views)
        if line != b"$%d" % size:
            raise wrong_size(key, line[1:].decode(), size)
        for view in views:
            self._read_exactly(view)
        self._read_exactly(self._line_end)

    def _read_line(self) -> bytes:
        while (end := bytes(self._rest).find(b"\r\n")) < 0:
            kept = len(self._rest)
            if kept == _HEADER_SIZE:
                raise hiredis.ProtocolError(f"a reply's first line is longer than {_HEADER_SIZE} bytes")
            self._buffer[:kept] = self._rest
            self._rest = self._buffer[: kept + self._receive_into(self._buffer[kept:_HEADER_SIZE])]
        line = bytes(self._rest[:end])
        self._rest = self._rest[end + 2 :]
        return line

    def _read_exactly(self, view: memoryview) -> None:
        """Fill a view; read a small one together with the header that follows it."""
        while view:
            if self._rest:
                count = min(len(self._rest), len(view))
                view[:count] = self._rest[:count]
                self._rest = self._rest[count:]
                view = view[count:]
            elif len(view) < _HEADER_SIZE:
                self._rest = self._buffer[: self._receive_into(self._buffer[:_HEADER_SIZE])]
            else:
                view = view[self._receive_into(view) :]

    def _fail(self, error: BaseException) -> NoReturn:
        """Close the connection; the one place where errors of the network become ours."""
        interrupted, closed = self.interrupted, self.closed
        self.close()
        if not isinstance(error, OSError | EOFError | hiredis.ProtocolError):
            raise error
        if interrupted:
            reason = "the wait was interrupted by another thread"
        elif closed:
            reason = "the connection is closed"
        elif isinstance(error, TimeoutError):
            reason = f"no answer within {self._timeout:g} s"
        else:
            reason = str(error) or type(error).__name__
            if not self._answered and self._sock.family != socket.AF_UNIX:
                alert = isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError)
                ended = sentence(error) if alert else "it has ended the connection."
                reason = f"{ended} {ASK_TLS if self._gathers else ASK_CERTIFICATE}"
        raise Unavailable(f"{self.node}: {reason}") from error


def _pack(command: Command) -> bytes:
    packed: bytes = hiredis.pack_command(tuple(command))  # type: ignore[arg-type]  # its stub forgot the "..."
    return packed
