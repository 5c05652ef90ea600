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

import os
import re
import shlex
import stat
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal
from urllib.parse import unquote, urlsplit

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
_ENCODE: Final = "percent-encode the password (%23 for #, %2F for /, %3F for ?, %40 for @)"
_HIDDEN: Final = "***"
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z+]{0,19}")
#: A host with a port, and perhaps a database.
_BARE: Final = re.compile(r"[^@/#]+:[0-9]{1,5}(/[0-9]*)?")
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
    #: Seconds without an answer after which Redis counts as unavailable.
    socket_timeout: float = 5.0
    connect_timeout: float = 5.0
    #: Seconds for which a login or a certificate that is refused is waited out where one was accepted before; 0: it is
    #: final at once, as it always is at the start.
    login_patience: float = 60.0
    #: TCP keepalive: the kernel asks an idle peer after 30 s, which keeps the connection known to firewalls; one that a
    #: firewall forgot, or whose peer is dead, is closed 15 s later, and costs the next command nothing.
    keepalive: bool = True
    #: Call the steps of the protocol as functions of Redis, which its server or who provisions it has loaded: the user
    #: needs ``+fcall`` and no right to bring scripts of its own.
    functions: bool = False
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
        """Raise ConfigError that names the first file that is not there, or is a secret that others can read."""
        for name in ("password_file", "ca_cert", "client_cert", "client_key"):
            path = getattr(self, name)
            if path is None:
                continue
            if not Path(path).is_file():
                raise ConfigError(f"{name} {str(path)!r} does not exist: give the path of a readable file")
            if name in _SECRET:
                _check_private(name, Path(path))

    def read_password(self) -> str | None:
        """Return the password, from the file when one is named (without the line end)."""
        if self.password_file is None:
            return self.password
        try:
            return Path(self.password_file).read_text(encoding="utf-8").rstrip("\r\n")
        except OSError as error:
            raise ConfigError(f"cannot read password_file {str(self.password_file)!r}: {error}") from error


#: Files of ``ConnectionOptions`` that hold a secret.
_SECRET: Final = ("password_file", "client_key")


def _check_private(name: str, path: Path) -> None:
    """Refuse a file that others can read; one of root's may be readable for its group, as in a container."""
    found = path.stat()
    group_may = found.st_uid == 0 != os.geteuid()
    if found.st_mode & (stat.S_IRWXO if group_may else stat.S_IRWXO | stat.S_IRWXG):
        mode = stat.S_IMODE(found.st_mode)
        raise ConfigError(
            f"{name} {str(path)!r} can be read by others (mode {mode:04o}): chmod 600 {shlex.quote(str(path))}"
        )


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
    #: Not in ``repr``, like the password: a password alone is often written in its place.
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    #: The URL with its password, or its name if it has no password, replaced by ``***``; the only form that is shown.
    masked: str

    @classmethod
    def parse(cls, url: str) -> ServerUrl:
        """Take ``url`` apart; raise ConfigError that shows its scheme, what is wrong, and the accepted forms.

        Neither shows more of it: where a URL is not usable, any part behind its scheme may be a password.
        """
        if not isinstance(url, str):
            raise ConfigError(f"a Redis URL must be a str, but got {type(url).__name__}: {_ACCEPTED}")
        try:
            return _parse(url)
        except _Unusable as error:
            reason = str(error)
        except ValueError:  # of urllib, which quotes the URL
            reason = "its host or its port cannot be read"
        encode = "" if _BARE.fullmatch(url) else f"{_ENCODE}; "
        raise ConfigError(f"Redis URL {_scheme_only(url)!r} is not usable: {reason}; {encode}{_ACCEPTED}")


class _Unusable(ValueError):
    """What is wrong with a URL; never quotes a part of it behind its scheme."""


def _scheme_only(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    if not separator or not _SCHEME.fullmatch(scheme):
        return _HIDDEN if url else ""
    return f"{scheme}://" + (f"{_HIDDEN}@" if "@" in rest else "") + ("..." if rest else "")


def _masked(scheme: str, netloc: str, url: str) -> str:
    """Return the URL with its password replaced, and with a name that has no password, because it may be one."""
    login, at, place = netloc.rpartition("@")
    user, _, password = login.partition(":")
    shown = f"{user}:{_HIDDEN}" if password else _HIDDEN if user else ""
    return f"{scheme}://{shown}{at}{place}{url.partition('://')[2][len(netloc) :]}"


def _parse(url: str) -> ServerUrl:
    scheme, separator, rest = url.partition("://")
    if scheme == "embedded":
        raise _Unusable(
            "start the embedded server first (EmbeddedServer of redflare_broker.embedded.server) and use its url"
        )
    if not separator or not _SCHEME.fullmatch(scheme):
        if _BARE.fullmatch(url):
            raise _Unusable("it has no scheme: write redis:// before the host")
        raise _Unusable("it has no scheme" if url else "it is empty")
    if scheme not in _SCHEMES:
        raise _Unusable(f"unknown scheme {scheme!r}")
    mode, tls = _SCHEMES[scheme]
    parts = urlsplit(url)
    if parts.fragment:
        raise _Unusable("it has a #")
    if "@" in rest[len(parts.netloc) :] and (parts.netloc or mode != "unix"):
        raise _Unusable("it has an @ behind its host")
    login, _, hosts = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    base = ServerUrl(
        mode=mode,
        tls=tls,
        masked=_masked(scheme, parts.netloc, url),
        username=unquote(user) or None,
        password=unquote(password) or None,
    )
    if mode == "unix":
        if hosts or not parts.path:
            raise _Unusable("the path of a Unix socket is absolute, with three slashes: unix:///run/redis.sock")
        return replace(base, path=unquote(parts.path), db=_db_of_query(parts.query))
    if parts.query:
        raise _Unusable("it has a query (such settings belong in ConnectionOptions)")
    default_port = _SENTINEL_PORT if mode == "sentinel" else _REDIS_PORT
    nodes = tuple(_node(text, default_port) for text in hosts.split(","))
    if mode == "single" and len(nodes) > 1:
        raise _Unusable("it names several addresses, which only the sentinel and cluster forms do")
    service, db = _service_and_db(mode, [unquote(part) for part in parts.path.split("/") if part])
    return replace(base, nodes=nodes, service=service, db=db)


def _db_of_query(query: str) -> int:
    name, _, value = query.partition("=")
    if query and (name != "db" or not value):
        raise _Unusable("its query may only be db=<number>")
    return _number(value or "0")


def _node(text: str, default_port: int) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")  # knows [::1]:6379
    if not parts.hostname:
        raise _Unusable("a host is missing")
    try:
        return unquote(parts.hostname), parts.port or default_port
    except ValueError:
        raise _Unusable("its port is not a number up to 65535") from None


def _service_and_db(mode: Mode, path: list[str]) -> tuple[str, int]:
    service = ""
    if mode == "sentinel":
        if not path:
            raise _Unusable("the name of the service that the Sentinels watch is missing")
        service = path.pop(0)
    if mode == "cluster" and path:
        raise _Unusable("a cluster has no databases, nothing may follow its hosts")
    if len(path) > 1:
        raise _Unusable("nothing may follow its database")
    return service, _number(path[0]) if path else 0


def _number(text: str) -> int:
    if not text.isdecimal():
        raise _Unusable("its database is not a number")
    return int(text)
