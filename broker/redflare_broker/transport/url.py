"""Server URLs and connection options: what a user writes, checked and taken apart. No I/O but reading named files.

=====================================  =====================================================================
``redis://[user:pw@]host[:port][/db]``  one server; ``rediss://`` the same over TLS
``unix://[user:pw@]/path[?db=n]``       one server on a Unix socket
``redis+sentinel://h:p,h:p/name[/db]``  the primary called ``name``, found through Sentinels; ``rediss+sentinel://``
``redis+cluster://h:p,h:p``             a cluster, found through any of its nodes; ``rediss+cluster://``
=====================================  =====================================================================

Names and passwords with special characters are percent-encoded. A setting in ``ConnectionOptions`` wins over the URL.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal
from urllib.parse import parse_qs, unquote, urlsplit

from redflare_broker.errors import ConfigError

Mode = Literal["single", "unix", "sentinel", "cluster"]

_SCHEMES: Final[dict[str, tuple[Mode, bool]]] = {
    "redis": ("single", False),
    "rediss": ("single", True),
    "unix": ("unix", False),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
}
_ACCEPTED: Final = (
    "use redis://[user:password@]host[:port][/db], rediss://... (TLS), unix:///path[?db=n], "
    "redis+sentinel://host:port,host:port/service[/db] or redis+cluster://host:port,host:port "
    "(rediss+sentinel://, rediss+cluster:// for TLS)"
)
_REDIS_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionOptions:
    """How to reach and identify to a server, beyond its URL.

    Raises:
        ConfigError: a timeout that is not positive, both forms of password, a key without its certificate.
    """

    username: str | None = None
    password: str | None = field(default=None, repr=False)
    #: Read at every new connection, so a rotated password is picked up without a restart.
    password_file: str | Path | None = None
    #: PEM file of the authority that signed the server's certificate; None: the system's authorities.
    ca_cert: str | Path | None = None
    client_cert: str | Path | None = None
    client_key: str | Path | None = None
    check_hostname: bool = True
    #: Database number; None: the URL's, or 0.
    db: int | None = None
    #: Seconds without an answer after which the server counts as unavailable.
    socket_timeout: float = 5.0
    connect_timeout: float = 5.0
    #: Seconds for which a login or a certificate that is refused is waited out where one was accepted before; 0: it is
    #: final at once, as it always is at the start.
    login_patience: float = 60.0
    #: TCP keepalive, so that a dead peer is noticed on an idle connection too.
    keepalive: bool = True
    #: Shown by ``CLIENT LIST``; needs the permission ``+client|setname``.
    client_name: str | None = None
    #: For Sentinels that ask for a login of their own.
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name in ("socket_timeout", "connect_timeout"):
            seconds = getattr(self, name)
            if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds > 0:
                raise ConfigError(f"{name} must be a positive number of seconds, but got {seconds!r}")
        patience = self.login_patience
        if isinstance(patience, bool) or not isinstance(patience, int | float) or not patience >= 0:
            raise ConfigError(f"login_patience must be a number of seconds >= 0, but got {patience!r}")
        if self.password is not None and self.password_file is not None:
            raise ConfigError("password and password_file are both set: give one of them")
        if self.client_key is not None and self.client_cert is None:
            raise ConfigError(f"client_key is {str(self.client_key)!r} but client_cert is not set: give both")
        if self.db is not None and (isinstance(self.db, bool) or not isinstance(self.db, int) or self.db < 0):
            raise ConfigError(f"db must be a number >= 0, but got {self.db!r}")

    def check_files(self) -> None:
        """Raise ConfigError that names the first file of these options that is not there."""
        for name in ("password_file", "ca_cert", "client_cert", "client_key"):
            path = getattr(self, name)
            if path is not None and not Path(path).is_file():
                raise ConfigError(f"{name} {str(path)!r} does not exist: give the path of a readable file")

    def read_password(self) -> str | None:
        """Return the password, from the file when one is named (without the line end)."""
        if self.password_file is None:
            return self.password
        try:
            return Path(self.password_file).read_text(encoding="utf-8").rstrip("\r\n")
        except OSError as error:
            raise ConfigError(f"cannot read password_file {str(self.password_file)!r}: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerUrl:
    """A URL taken apart by ``ServerUrl.parse``."""

    mode: Mode
    tls: bool
    #: (host, port) of the server, of the Sentinels, or of some nodes of the cluster; empty for a Unix socket.
    nodes: tuple[tuple[str, int], ...] = ()
    path: str = ""
    service: str = ""
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    #: The URL with its password replaced by ``***``; the only form that is ever shown.
    masked: str

    @classmethod
    def parse(cls, url: str) -> ServerUrl:
        """Take ``url`` apart; raise ConfigError that shows it (password masked) and the accepted forms."""
        if not isinstance(url, str):
            raise ConfigError(f"a server URL must be a str, but got {type(url).__name__}: {_ACCEPTED}")
        masked = mask(url)
        try:
            return _parse(url, masked)
        except ValueError as error:
            raise ConfigError(f"server URL {masked!r} is not usable: {error}; {_ACCEPTED}") from None


def mask(url: str) -> str:
    """``url`` with the password in it replaced by ``***``."""
    scheme, separator, rest = url.partition("://")
    login, at, place = rest.rpartition("@")
    user, colon, _ = login.partition(":")
    return f"{scheme}{separator}{user}{colon}{'***' if colon else ''}{at}{place}"


def _parse(url: str, masked: str) -> ServerUrl:
    scheme, _, _ = url.partition("://")
    if scheme == "embedded":
        raise ValueError(
            "start the embedded server first (EmbeddedServer of redflare_broker.embedded.server) and use its url"
        )
    if scheme not in _SCHEMES:
        raise ValueError(f"unknown scheme {scheme!r}")
    mode, tls = _SCHEMES[scheme]
    parts = urlsplit(url)
    if parts.fragment:
        raise ValueError(f"unexpected {'#' + parts.fragment!r} at its end")
    login, _, hosts = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    base = ServerUrl(
        mode=mode, tls=tls, masked=masked, username=unquote(user) or None, password=unquote(password) or None
    )
    if mode == "unix":
        if hosts or not parts.path:
            raise ValueError("the path of a Unix socket is absolute, with three slashes: unix:///run/redis.sock")
        return replace(base, path=unquote(parts.path), db=_db_of_query(parts.query))
    if parts.query:
        raise ValueError(f"unexpected query {parts.query!r} (such settings belong into ConnectionOptions)")
    default_port = _SENTINEL_PORT if mode == "sentinel" else _REDIS_PORT
    nodes = tuple(_node(text, default_port) for text in hosts.split(","))
    if mode == "single" and len(nodes) > 1:
        raise ValueError("it names several servers, which only the sentinel and cluster forms do")
    service, db = _service_and_db(mode, [unquote(part) for part in parts.path.split("/") if part])
    return replace(base, nodes=nodes, service=service, db=db)


def _db_of_query(query: str) -> int:
    settings = parse_qs(query, strict_parsing=True) if query else {}
    if unknown := sorted(set(settings) - {"db"}):
        raise ValueError(f"unknown setting {unknown[0]!r} in its query")
    return _number(settings.get("db", ["0"])[0], "database")


def _node(text: str, default_port: int) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")  # knows [::1]:6379 and refuses ports that are none
    if not parts.hostname:
        raise ValueError("a host is missing")
    return unquote(parts.hostname), parts.port or default_port


def _service_and_db(mode: Mode, path: list[str]) -> tuple[str, int]:
    service = ""
    if mode == "sentinel":
        if not path:
            raise ValueError("the name of the service that the Sentinels watch is missing")
        service = path.pop(0)
    if mode == "cluster" and path:
        raise ValueError("a cluster has no databases, nothing may follow its hosts")
    if len(path) > 1:
        raise ValueError(f"unexpected {'/'.join(path[1:])!r} at its end")
    return service, _number(path[0], "database") if path else 0


def _number(text: str, what: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"{what} {text!r} is not a number")
    return int(text)
