"""What a site may set about its links: the workspace's ``comm_config.json`` and ``startup/`` folder.

``docs/configuration.md`` documents every key. An unknown key is an error that names it, so a typing mistake is found
at start and not at night.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

from redflare_broker.errors import ConfigError
from redflare_broker.keys import DEFAULT_NAMESPACE, Keys
from redflare_broker.transport.server import ConnectionOptions
from redflare_broker.util.did_you_mean import did_you_mean
from redflare_broker.wire.limits import CodecLimits

from .retention import JobRetentionPolicy, RetentionPolicy

_log = logging.getLogger(__name__)

CONFIG_FILE: Final = "comm_config.json"
STARTUP_FOLDER: Final = "startup"
ROOT_CERT: Final = "rootCA.pem"
CLIENT_CERT: Final = "client.crt"
CLIENT_KEY: Final = "client.key"


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSettings:
    """How this process's links behave; the defaults are those of ``docs/configuration.md``."""

    namespace: str = DEFAULT_NAMESPACE
    connection: ConnectionOptions = field(default_factory=ConnectionOptions)
    limits: CodecLimits = field(default_factory=CodecLimits)
    policy: RetentionPolicy = field(default_factory=RetentionPolicy)
    #: Of the job store of the server.
    job_store: JobRetentionPolicy = field(default_factory=JobRetentionPolicy)
    #: Seconds between two heartbeats.
    heartbeat_interval: float = 5.0
    #: Seconds a heartbeat key lives; must be well above every peer's interval.
    heartbeat_ttl: float = 60.0
    #: Seconds one blocking read waits in Redis before it is asked again.
    block: float = 30.0
    #: Agents that may die with one task; then it ends with EXECUTION_EXCEPTION.
    max_attempts: int = 5
    #: Accept a Redis that may evict keys when its memory is full; then tasks can be lost.
    allow_eviction: bool = False

    def __post_init__(self) -> None:
        for name in ("heartbeat_interval", "heartbeat_ttl", "block"):
            _positive(name, getattr(self, name))
        for name in ("retention", "settled_retention", "result_keep"):
            _positive(name, getattr(self.policy, name))
        for each in dataclasses.fields(JobRetentionPolicy):
            _positive(each.name, getattr(self.job_store, each.name))
        if isinstance(self.max_attempts, bool) or not isinstance(self.max_attempts, int) or self.max_attempts < 1:
            raise ConfigError(f"max_attempts must be a whole number > 0, but got {self.max_attempts!r}")
        Keys(self.namespace)  # raises ConfigError for one that no key may have
        if self.heartbeat_ttl < 2 * self.heartbeat_interval:
            raise ConfigError(
                f"heartbeat_ttl {self.heartbeat_ttl} is less than twice heartbeat_interval {self.heartbeat_interval}: "
                "a single late heartbeat would look like a death"
            )


def _positive(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise ConfigError(f"{name} must be a number > 0 (seconds), but got {value!r}")


#: Keys of comm_config.json at its top level that go to the connection.
_CONNECTION_KEYS: Final = (
    *(
        "username",
        "password_file",
        "check_hostname",
        "socket_timeout",
        "connect_timeout",
        "login_patience",
        "functions",
    ),
)
_TOP_KEYS: Final = ("namespace", "heartbeat_interval", "heartbeat_ttl", "block", "max_attempts", "allow_eviction")
#: Top-level keys that are not durations, with their types; null is like a name that is not given.
_TYPES: Final[dict[str, type]] = {
    "namespace": str,
    "username": str,
    "password_file": str,
    "check_hostname": bool,
    "functions": bool,
    "allow_eviction": bool,
}


def load_settings(workspace: str | Path, secure: bool = False) -> LinkSettings:
    """Read a workspace: ``comm_config.json`` (optional) and ``startup/`` with rootCA.pem, client.crt and client.key.

    Args:
        workspace: folder that may hold both; it need not exist unless ``secure``.
        secure: TLS is wanted; ``rootCA.pem`` must be there.

    Raises:
        ConfigError: a ValueError; names the file and the key, or the path that was searched.
    """
    folder = Path(workspace)
    config = read_object(folder / CONFIG_FILE)
    source = str(folder / CONFIG_FILE)
    refuse_unknown(config, (*_TOP_KEYS, *_CONNECTION_KEYS, "limits", "retention", "job_store"), source)
    for key, kind in _TYPES.items():
        if not isinstance(config.get(key), kind | None):
            raise ConfigError(f"{source}: {key} must be a {kind.__name__}, but is {config[key]!r}")
        if config.get(key, ...) is None:
            del config[key]
    connection: dict[str, Any] = {key: config[key] for key in _CONNECTION_KEYS if key in config}
    if isinstance(password_file := connection.get("password_file"), str):
        connection["password_file"] = str(folder / password_file)
    connection |= _certificates(folder, secure)
    limits = _section(config, "limits", CodecLimits, source)
    policy = _section(config, "retention", RetentionPolicy, source)
    job_store = _section(config, "job_store", JobRetentionPolicy, source)
    try:
        return LinkSettings(
            connection=ConnectionOptions(**connection),
            limits=CodecLimits(**limits),
            policy=RetentionPolicy(**policy),
            job_store=JobRetentionPolicy(**job_store),
            **{key: config[key] for key in _TOP_KEYS if key in config},
        )
    except (TypeError, ValueError) as exc:
        raise ConfigError(f"{source}: {exc}") from exc


def load_workspace(workspace: str | Path, secure: bool = False) -> LinkSettings:
    """Read a workspace that a program names, as ``load_settings``; one that does not exist is told in the log."""
    settings, folder = load_settings(workspace, secure), Path(workspace)
    if not folder.is_dir():
        _log.warning("there is no folder %s (workspace_dir): the default settings are used", folder.absolute())
    return settings


def read_object(path: Path) -> dict[str, Any]:
    """Read the JSON object in a file; empty when the file does not exist.

    Raises:
        ConfigError: it cannot be read, or holds something else.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as exc:
        raise ConfigError(f"{path} cannot be read: {exc}") from exc
    try:
        config = orjson.loads(content)
    except orjson.JSONDecodeError as exc:
        raise ConfigError(f"{path} is not JSON: {exc}") from exc
    if not isinstance(config, dict):
        raise ConfigError(f"{path} must hold a JSON object, but holds a {type(config).__name__}")
    return config


def refuse_unknown(given: Mapping[str, object], known: tuple[str, ...], where: str) -> None:
    """Raise a ConfigError that names the keys in ``given`` that are not ``known``, and the one that was meant."""
    if unknown := sorted(set(given) - set(known)):
        hints = "".join(did_you_mean(key, known) for key in unknown)
        raise ConfigError(f"{where}: unknown keys {unknown}; known are {sorted(known)}{hints}")


def _section(config: dict[str, Any], name: str, kind: type, source: str) -> dict[str, Any]:
    section = config.get(name, {})
    if not isinstance(section, dict):
        raise ConfigError(f"{source}: {name!r} must be an object, but is a {type(section).__name__}")
    refuse_unknown(section, tuple(item.name for item in dataclasses.fields(kind)), f"{source}: {name}")
    for item in dataclasses.fields(kind):
        value = section.get(item.name, item.default)
        whole = isinstance(item.default, int)
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or value < 0:
            wanted = "a whole number" if whole else "a number of seconds"
            raise ConfigError(f"{source}: {name}.{item.name} must be {wanted}, but is {value!r}")
    return section


def _certificates(folder: Path, secure: bool) -> dict[str, Any]:
    startup = folder / STARTUP_FOLDER
    root = startup / ROOT_CERT
    if secure and not root.is_file():
        raise ConfigError(f"secure_mode needs a root certificate, but there is none at {root}")
    if not root.is_file():
        return {}
    found: dict[str, Any] = {"ca_cert": str(root)}
    cert, key = startup / CLIENT_CERT, startup / CLIENT_KEY
    if cert.is_file() != key.is_file():
        missing = key if cert.is_file() else cert
        raise ConfigError(f"client certificate and key belong together, but {missing} is missing")
    if cert.is_file():
        found |= {"client_cert": str(cert), "client_key": str(key)}
    return found
