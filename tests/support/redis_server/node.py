"""One server process for tests: a plain node, and one with TLS and ACL users."""

# mypy: allow-untyped-calls

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import urlsplit

import redis
import trustme
from redflare_broker.embedded.watchdog import Watchdog
from redflare_broker.transport.server import ConnectionOptions

from tests.support.waiting import wait_until

Settings = Mapping[str, str | int]
N = TypeVar("N", bound="Node")

#: The commands that both sides of a link run.
_COMMANDS: Final = (
    "+eval +evalsha +time +ping +info +set +get +del +unlink +pexpire +pttl +hset +hget +hmget +hdel "
    "+xadd +xread +xrange +xdel +xlen +zadd +zremrangebyscore +publish +subscribe +unsubscribe"
)
#: Rules of an agent's user: all links, and task payloads for reading. A site of one's own: ``~flare:{site-1--*}:*``.
AGENT_ACL: Final = (
    f"~flare:{{*}}:* %R~flare:{{server.*}}:blob:* ~flare:agents resetchannels &flare:{{*}}:* -@all {_COMMANDS}"
)
#: Further commands of cells and jobs.
_JOB_COMMANDS: Final = "+hgetall +hkeys +hincrby +zrange +zrem +sadd +scard +srandmember"
#: Rules of a CJ's and a server's user: everything in the namespace.
CJ_ACL: Final = f"~flare:* resetchannels &flare:* -@all {_COMMANDS} {_JOB_COMMANDS}"
#: Rules of the user default where it is not used: without rights an old server forgets what scripts wrote.
DEFAULT_ACL: Final = "off ~* &* +@all"
#: On a cluster in addition, for both.
CLUSTER_ACL: Final = "+spublish +ssubscribe +sunsubscribe +cluster|slots"

_ADMIN_PASSWORD: Final = "admin-secret"


class Node:
    """One server process in a directory, which it keeps when it is stopped, killed and started again."""

    def __init__(self, binary: str | Path, settings: Settings, *flags: str) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="redflare-test-"))
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self.options = self.agent_options = ConnectionOptions()
        self._command = [str(binary), str(self.directory / "server.conf"), *flags]
        self._watchdog: Watchdog | None = None
        self.pid = 0
        lines = {"port": self.port, "bind": "127.0.0.1", "save": '""', **settings}
        text = "".join(f"{name} {value}\n" for name, value in lines.items())
        (self.directory / "server.conf").write_text(text.replace("<directory>", str(self.directory)))

    def client(self) -> redis.Redis:
        """An administrator's client."""
        return redis.Redis.from_url(self.url)

    def nodes_of_all(self) -> list[Node]:
        """Every node that has users."""
        return [self]

    def start(self) -> None:
        """Start the process and return when it answers."""
        self._watchdog = Watchdog(self.directory, temporary=False, command=self._command)
        self.pid = self._watchdog.await_start(time.monotonic() + 10)
        wait_until(self._answers, what=f"a server at {self.url} that answers")

    def stop(self) -> None:
        """Shut the process down."""
        if self._watchdog:
            self._watchdog.end()
            self._watchdog = None

    def kill(self) -> None:
        """SIGKILL the process."""
        assert self._watchdog
        os.kill(self.pid, signal.SIGKILL)
        assert self._watchdog.await_report(10)

    def restart(self) -> None:
        """Start it again, on the same port and directory; a killed one as well as one that runs."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """SIGSTOP the process: it keeps its connections and does not reply."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT the process."""
        os.kill(self.pid, signal.SIGCONT)

    def info(self, section: str) -> dict[str, object]:
        """A section of INFO."""
        with self.client() as client:
            return dict(client.info(section))

    def remove(self) -> None:
        """Stop it and remove its directory."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _answers(self) -> bool:
        assert self._watchdog
        if self._watchdog.has_report():
            raise AssertionError(f"the server ended: {(self.directory / 'server.log').read_text()[-2000:]}")
        if not self._listens():
            return False
        try:
            with self.client() as client:
                return bool(client.ping())
        except (redis.ConnectionError, redis.exceptions.BusyLoadingError):
            return False

    def _listens(self) -> bool:
        """Whether it takes connections on its Unix socket; redis-py leaves one open that could not connect."""
        parts = urlsplit(self.url)
        if parts.scheme != "unix":
            return True
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(parts.path) == 0


class TlsNode(Node):
    """A server that wants TLS, a client certificate and a login; its default user is off."""

    def __init__(self, binary: str | Path, settings: Settings) -> None:
        users = {
            "user admin": f"on >{_ADMIN_PASSWORD} ~* &* +@all",
            "user default": DEFAULT_ACL,
            "user agent": f"on >agent-secret {AGENT_ACL}",
            "user cj": f"on >cj-secret {CJ_ACL}",
        }
        files = {f"tls-{name}-file": f"<directory>/{name}.pem" for name in ("cert", "key", "ca-cert")}
        super().__init__(
            binary, {"port": 0, "tls-port": free_port(), "tls-auth-clients": "yes", **files, **users, **settings}
        )
        self.port = int((self.directory / "server.conf").read_text().partition("tls-port ")[2].split("\n")[0])
        self.url = f"rediss://localhost:{self.port}"
        self._write_certificates()
        self.options = self._options("cj", "cj-secret")
        self.agent_options = self._options("agent", "agent-secret")

    def client(self) -> redis.Redis:
        return redis.Redis(
            host="localhost",
            port=self.port,
            username="admin",
            password=_ADMIN_PASSWORD,
            ssl=True,
            ssl_ca_certs=str(self.directory / "ca-cert.pem"),
            ssl_certfile=str(self.directory / "client.pem"),
        )

    def _options(self, user: str, password: str) -> ConnectionOptions:
        return ConnectionOptions(
            username=user,
            password=password,
            ca_cert=self.directory / "ca-cert.pem",
            client_cert=self.directory / "client.pem",
        )

    def _write_certificates(self) -> None:
        authority = trustme.CA()
        server = authority.issue_cert("localhost")
        authority.cert_pem.write_to_path(str(self.directory / "ca-cert.pem"))
        server.private_key_pem.write_to_path(str(self.directory / "key.pem"))
        server.cert_chain_pems[0].write_to_path(str(self.directory / "cert.pem"))
        client = authority.issue_cert("client@redflare.example")
        client.private_key_and_cert_chain_pem.write_to_path(str(self.directory / "client.pem"))


def free_port() -> int:
    """Return a port on 127.0.0.1 that nobody listens on, below those that the system gives out (from 32,768).

    So no connection takes it while its server is started again. A cluster's bus, 10,000 above, has such a port, too.
    """
    while True:
        port = random.SystemRandom().randrange(10_000, 22_000)
        try:
            for each in (port, port + 10_000):
                socket.create_server(("127.0.0.1", each)).close()
        except OSError:
            continue
        return port


@contextmanager
def running(node: N) -> Iterator[N]:
    """A node for the length of a with block, which removes it."""
    try:
        node.start()
        yield node
    finally:
        node.remove()
