"""What a site allows and has, ``local/site.json`` of its workspace; and the arguments of a ``ClientEngine``."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson
from redflare_broker.config.settings import LinkSettings
from redflare_broker.errors import ConfigError
from redflare_broker.fqcn import check_name
from redflare_broker.util.did_you_mean import did_you_mean

from redflare_workers.util.site_defaults import MAX_BYTES, MAX_FILES, SHIPPED

#: Default of ``join_wait``.
JOIN_WAIT: Final = 60.0

LOCAL_FOLDER: Final = "local"
SITE_FILE: Final = "site.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteSettings:
    """What a site allows jobs to do. By default only redflare's own components run, and no code that a job brings."""

    #: Class paths that jobs may name, with ``*`` for anything.
    allow: tuple[str, ...] = SHIPPED
    #: Whether jobs may bring their own code.
    allow_custom: bool = False
    #: The site's resources, for jobs that declare what they need.
    resources: Mapping[str, float] = field(default_factory=dict)
    #: Bytes and entries that the archive of an app may have once it is unpacked.
    max_bytes: int = MAX_BYTES
    max_files: int = MAX_FILES
    #: Seconds to end in order after an abort; then SIGTERM is sent to the job's process group.
    abort_grace: float = 10.0
    #: Seconds to end on SIGTERM; then SIGKILL is sent.
    stop_grace: float = 5.0
    #: How often a job's process that was killed by a signal is started again; it keeps its task.
    restarts: int = 3
    #: Seconds that a job at the server waits for all of its sites before it begins; then ``min_clients`` will do.
    join_wait: float = JOIN_WAIT

    def __post_init__(self) -> None:
        if isinstance(self.allow, str) or not all(isinstance(each, str) and each for each in self.allow):
            raise ConfigError(f"allow must be a list of class paths, but is {self.allow!r}")
        object.__setattr__(self, "allow", tuple(self.allow))
        if not isinstance(self.allow_custom, bool):
            raise ConfigError(f"allow_custom must be true or false, but is {self.allow_custom!r}")
        if not isinstance(self.resources, Mapping):
            raise ConfigError(f'resources must be an object like {{"gpus": 2}}, but is {self.resources!r}')
        for name, amount in self.resources.items():
            _check_amount(f"resources.{name}", amount)
        for name in ("max_bytes", "max_files", "abort_grace", "stop_grace", "restarts", "join_wait"):
            _check_amount(name, getattr(self, name))


def _check_amount(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ConfigError(f"{name} must be a number >= 0, but is {value!r}")


def load_site_settings(workspace: str | Path) -> SiteSettings:
    """Read ``<workspace>/local/site.json``, or return the defaults. Its ``allow`` extends what redflare ships.

    Raises:
        ConfigError: a ValueError; names the file and the key.
    """
    path = Path(workspace) / LOCAL_FOLDER / SITE_FILE
    known = [each.name for each in dataclasses.fields(SiteSettings)]
    try:
        data = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        return SiteSettings()
    except (OSError, orjson.JSONDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path} must hold a JSON object, but holds a {type(data).__name__}")
    for key in data:
        if key not in known:
            raise ConfigError(f"{path}: {key!r} is not known{did_you_mean(key, known)}; known are {sorted(known)}")
    try:
        settings = SiteSettings(**data)
        return dataclasses.replace(settings, allow=tuple(dict.fromkeys((*SHIPPED, *settings.allow))))
    except (TypeError, ConfigError) as error:
        raise ConfigError(f"{path}: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteArgs:
    """The workspace and the server of a client parent; ``args`` of ``ClientEngine``."""

    #: folder with ``comm_config.json``, ``startup/`` and ``local/``; runs of jobs are made in it
    workspace: str | Path = "."
    #: any form of ``redflare_broker.transport.url``
    redis_url: str = field(default="", repr=False)
    #: the server's cell
    server_name: str = "server"
    #: ``startup/rootCA.pem`` must be there
    secure_mode: bool = False
    #: of this process; None: the workspace's. Processes of jobs always read the workspace's.
    settings: LinkSettings | None = None
    #: a redis-py or fakeredis client to use in this process instead of the URL
    client: Any = None
    #: replace a living client parent of this site, which ends; otherwise this one is refused
    take_over: bool = False


@dataclass(slots=True, kw_only=True)
class Site:
    """A site; ``client`` of ``ClientEngine``."""

    name: str
    settings: SiteSettings = field(default_factory=SiteSettings)
    #: by id; they get events
    components: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_name(self.name, "name of the site")
