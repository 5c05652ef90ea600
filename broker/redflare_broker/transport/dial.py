"""``Dialer``: opens connections with redis-py's classes and settings, and turns its errors into ours.

A ``Dialer`` is one recipe. What it opens speaks RESP2, returns bytes, and never retries by itself; everything after the
login belongs to the connection around it.
"""

# mypy: allow-untyped-calls
# (half of redis-py's methods have no annotations)

from __future__ import annotations

import select
import socket
import ssl
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, TypeAlias, Union, cast

import redis
from redis.backoff import NoBackoff
from redis.connection import Connection as RawConnection
from redis.connection import SSLConnection, UnixDomainSocketConnection
from redis.credentials import CredentialProvider
from redis.retry import Retry
from redis.sentinel import Sentinel

from redflare_broker.errors import ConfigError, ServerError, Unavailable

from .client_connection import ClientConnection, reply_of
from .cluster_slots import Address
from .connection import Connection
from .replies import ASK_CERTIFICATE, ASK_TLS, check_away, sentence
from .socket_connection import SocketConnection
from .url import ConnectionOptions, ServerUrl

Client: TypeAlias = Union["redis.Redis", "redis.RedisCluster"]
Settings: TypeAlias = Mapping[str, object]

#: What redis-py says of a password without a user, if the server's user default has none.
_NO_PASSWORD: Final = "without any password configured for the default user"
#: What every connection gets, whoever made its settings: no resending, no decoding, no commands but the login.
_OURS: Final[Settings] = {
    "protocol": 2,
    "decode_responses": False,
    "retry": None,
    "retry_on_error": (),
    "retry_on_timeout": False,
    "health_check_interval": 0,
    "driver_info": None,
}


class Dialer(ABC):
    """Opens connections by one recipe.

    Args:
        name: of the server in messages; never holds a password.
        seeds: nodes to ask for a cluster's slot map; empty when it is no cluster.
    """

    def __init__(self, name: str, seeds: tuple[Address, ...] = ()) -> None:
        self.name = name
        self.seeds = seeds

    @abstractmethod
    def dial(self, address: Address | None) -> RawConnection:
        """Open a connection and log in; to ``address`` in a cluster, None elsewhere.

        Raises:
            Unavailable: no Redis answers there now.
            ServerError: Redis does not let us in.
            ConfigError: a certificate or a named file is not usable.
        """


class PlainDialer(Dialer):
    """Dials one server, a node of a cluster, or the server of a redis-py client."""

    def __init__(
        self, name: str, kind: type[RawConnection], settings: Settings, seeds: tuple[Address, ...] = ()
    ) -> None:
        super().__init__(name, seeds)
        self._kind = kind
        self._settings = {**settings, **_OURS}
        #: None: a Unix socket
        self._tls = None if issubclass(kind, UnixDomainSocketConnection) else issubclass(kind, SSLConnection)

    def dial(self, address: Address | None) -> RawConnection:
        place = {"host": address[0], "port": address[1]} if address else {}
        raw = self._kind(**{**self._settings, **place})
        where = f"{address[0]}:{address[1]}" if address else self.name
        with _errors_of(where, tls=self._tls):
            raw.connect()
        return raw


class AnySentinelDialer(Dialer):
    """Dials the Sentinels of a service, any of which will do.

    The one that answered last comes first: a dead one costs its timeout every time, and one that knows of a failover is
    asked again.
    """

    def __init__(
        self, url: ServerUrl, kind: type[RawConnection], settings: Settings, options: ConnectionOptions
    ) -> None:
        super().__init__(f"the Sentinels of {url.masked}")
        self.nodes = list(url.nodes)
        self._kind = kind
        shared = {name: value for name, value in settings.items() if name.startswith(("socket_", "ssl_"))}
        self.settings = {
            **shared,
            "username": options.sentinel_username,
            "password": options.sentinel_password,
        }

    def dial(self, address: Address | None) -> RawConnection:
        failures = []
        for host, port in list(self.nodes):
            try:
                raw = PlainDialer(f"{host}:{port}", self._kind, {**self.settings, "host": host, "port": port}).dial(
                    None
                )
            except Unavailable as error:
                failures.append(str(error))
            else:
                self.prefer((host, port))
                return raw
        raise Unavailable("; ".join(failures))

    def prefer(self, answered: Address) -> None:
        """Ask this one first from now on."""
        self.nodes = [answered, *(node for node in self.nodes if node != answered)]


class SentinelDialer(Dialer):
    """Dials the primary of a service; asks the Sentinels each time, so that the next connection follows a failover."""

    def __init__(
        self, url: ServerUrl, kind: type[RawConnection], settings: Settings, options: ConnectionOptions
    ) -> None:
        super().__init__(url.masked)
        self.service = url.service
        self.sentinels = AnySentinelDialer(url, kind, settings, options)
        self._tls = url.tls
        self._primary = PlainDialer(url.masked, kind, settings)
        self._settings = {
            **self.sentinels.settings,
            "ssl": url.tls,
            "protocol": 2,
            "retry": Retry(NoBackoff(), 0),
            "driver_info": None,
        }

    def dial(self, address: Address | None) -> RawConnection:
        raw = self._primary.dial(self._find())
        with _errors_of(node_name(raw), tls=self._tls):
            self._check_role(raw)
        return raw

    def _find(self) -> Address:
        sentinel = Sentinel(self.sentinels.nodes, sentinel_kwargs=self._settings)
        try:
            with _errors_of(self.name, tls=self._tls):
                host, port = sentinel.discover_master(self.service)
        finally:
            sentinel.close()
        # redis-py has put the one that answered in front
        first = sentinel.sentinels[0].connection_pool.connection_kwargs
        self.sentinels.prefer((first["host"], first["port"]))
        return str(host), int(port)

    def _check_role(self, raw: RawConnection) -> None:
        """Refuse a server that is a replica by now: a Sentinel may be behind, and a replica cannot be written to."""
        raw.send_command("ROLE")
        try:
            role = cast("list[bytes]", raw.read_response())
        except redis.exceptions.NoPermissionError:
            return  # then the first write fails
        if role[0] != b"master":
            raw.disconnect()
            raise Unavailable(f"{node_name(raw)} is a replica, though {self.name} called it the primary")


class _Login(CredentialProvider):
    """Reads the password file at every login, so that a rotated password needs no restart."""

    def __init__(self, username: str | None, options: ConnectionOptions) -> None:
        self._username = username
        self._options = options

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        password = self._options.read_password() or ""
        return (self._username, password) if self._username else (password,)


def url_dialer(url: ServerUrl, options: ConnectionOptions) -> Dialer:
    """Make the dialer for a URL and its options; no I/O except that the named files must exist."""
    options.check_files()
    settings = _settings(url, options)
    if url.mode == "unix":
        # The class takes other arguments than RawConnection, which the settings respect.
        return PlainDialer(
            url.masked, cast("type[RawConnection]", UnixDomainSocketConnection), {**settings, "path": url.path}
        )
    kind = SSLConnection if url.tls else RawConnection
    if url.mode == "sentinel":
        return SentinelDialer(url, kind, settings, options)
    if url.mode == "cluster":
        return PlainDialer(url.masked, kind, settings, seeds=url.nodes)
    host, port = url.nodes[0]
    return PlainDialer(url.masked, kind, {**settings, "host": host, "port": port})


def client_dialer(client: Client) -> Dialer:
    """Make the dialer for a redis-py client; connections are made by its pool's class and settings, but are our own."""
    seeds: tuple[Address, ...] = ()
    if isinstance(client, redis.RedisCluster):
        nodes = client.get_nodes()
        seeds = tuple((node.host, node.port) for node in nodes)
        client = client.get_redis_connection(nodes[0])
    pool = client.connection_pool
    # The notification handlers belong to the pool, which does not know our connections.
    settings = {name: value for name, value in pool.connection_kwargs.items() if "maint_notifications" not in name}
    name = settings.get("path") or f"{settings.get('host', 'client')}:{settings.get('port', 0)}"
    return PlainDialer(str(name), pool.connection_class, settings, seeds)


def node_name(raw: RawConnection) -> str:
    """Return the peer of a connection, for logs: ``127.0.0.1:6379`` or the path of a Unix socket."""
    path = getattr(raw, "path", None)
    return str(path) if path else f"{raw.host}:{raw.port}"


class Dialled(NamedTuple):
    """A ``Connection`` with the redis-py connection below it."""

    connection: Connection
    raw: RawConnection

    @classmethod
    def wrap(cls, raw: RawConnection, timeout: float, *, functions: bool) -> Dialled:
        """Wrap a redis-py connection in the ``Connection`` that fits it: a socket's, or a fake server's."""
        make = SocketConnection if isinstance(raw._sock, socket.socket) else ClientConnection
        connection = make(cast("Any", raw), node_name(raw), timeout)
        connection.functions = functions
        return cls(connection, raw)

    def silent(self) -> bool:
        """Whether the connection can be used: it is open, and no end of file or stray reply waits to be read."""
        if self.connection.closed or self.connection.interrupted:
            return False
        sock = self.raw._sock
        if not isinstance(sock, socket.socket):
            return sock is not None
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        return not poll.poll(0)


def abandon(raw: RawConnection) -> None:
    """In a forked child: close the inherited socket without a shutdown, which would end the parent's connection too."""
    sock = raw._sock
    if isinstance(sock, socket.socket):
        sock.close()


def _settings(url: ServerUrl, options: ConnectionOptions) -> dict[str, object]:
    settings: dict[str, object] = {
        "db": url.db if options.db is None else options.db,
        "socket_timeout": options.socket_timeout,
        "socket_connect_timeout": options.connect_timeout,
        "client_name": options.client_name,
    }
    username = options.username if options.username is not None else url.username
    if options.password_file is not None:
        settings["credential_provider"] = _Login(username, options)
    else:
        password = options.password if options.password is not None else url.password
        settings |= {"username": username, "password": password}
    if url.mode == "cluster" and settings["db"]:
        raise ConfigError(
            f"db is {settings['db']}, but {url.masked} is a cluster, which has no databases: leave it out"
        )
    if url.mode != "unix":
        settings["socket_keepalive"] = options.keepalive
    files = {
        "ca_cert": ("ssl_ca_certs", options.ca_cert),
        "client_cert": ("ssl_certfile", options.client_cert),
        "client_key": ("ssl_keyfile", options.client_key),
    }
    given = {name: entry for name, entry in files.items() if entry[1] is not None}
    if given and not url.tls:
        raise ConfigError(f"{' and '.join(given)} given, but {url.masked} is not a TLS URL: use rediss://")
    if url.tls:
        settings |= {setting: str(path) for setting, path in given.values()}
        settings["ssl_check_hostname"] = options.check_hostname
    return settings


@contextmanager
def _errors_of(where: str, *, tls: bool | None) -> Iterator[None]:
    """Turn the errors of redis-py while it connects into ours."""
    try:
        yield
    except (redis.AuthenticationError, redis.exceptions.NoPermissionError) as error:
        if _NO_PASSWORD in str(error):
            why = "a password is given, but this Redis has none for its user default."
            remedy = "Leave the password out, give the user too, or set one at the server (requirepass)."
        else:
            why = sentence(error)
            remedy = "Set user and password in the URL or the options, or grant what is missing (ACL SETUSER)."
        raise ServerError(f"{where} refuses the login: {why} {remedy}") from error
    except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
        cause = error.__context__
        if isinstance(cause, ssl.SSLCertVerificationError):
            remedy = "Set ca_cert to the authority that signed it, and use the host name it was made for."
            why = sentence(cause.verify_message)
            raise ConfigError(f"the certificate of {where} is not trusted: {why} {remedy}") from error
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError):
            remedy = "Does it speak TLS there, and does it want a client certificate (client_cert, client_key)?"
            raise ServerError(f"TLS with {where} failed: {sentence(cause)} {remedy}") from error
        if isinstance(error, redis.RedisError):
            check_away(reply_of(error), where)
        raise Unavailable(f"{where} cannot be reached: {_why_away(error, cause, tls=tls)}") from error
    except redis.RedisError as error:
        check_away(reply_of(error), where)
        raise ServerError(f"{where} refuses the connection: {error}") from error


def _why_away(error: BaseException, cause: BaseException | None, *, tls: bool | None) -> str:
    """Why no login was possible, with a question where a server of the other kind, with TLS or without, does so too."""
    if tls and isinstance(cause, ssl.SSLEOFError | ConnectionResetError | BrokenPipeError):
        return f"it has ended the TLS connection. {ASK_CERTIFICATE}"
    if tls and isinstance(cause, TimeoutError) and "handshake" in str(cause):
        return "it does not answer the TLS handshake. Does it speak TLS at this port, or is redis:// to be used?"
    if tls is False and (isinstance(cause, ConnectionResetError) or "closed by server" in str(error)):
        return f"it has ended the connection. {ASK_TLS}"
    return str(error)
