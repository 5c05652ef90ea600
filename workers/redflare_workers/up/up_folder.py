"""``UpFolder``: the folder of ``redflare up``, with a workspace for the server and each site; ``Access``: how all that
it starts reach Redis.

Whatever a process needs to connect, an identity too, is put into its workspace and its environment here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson
from redflare_broker.config.settings import CONFIG_FILE
from redflare_broker.errors import ConfigError

#: For ``comm_config.json`` of a new workspace: on one machine, who has died or is back is seen within seconds.
_SETTINGS: Final[Mapping[str, Any]] = {"heartbeat_interval": 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How a process reaches Redis."""

    url: str = field(repr=False)

    def environment(self) -> dict[str, str]:
        """Variables for a command of ``redflare``: not on a command line, which all users of the machine can read."""
        return {"REDFLARE_URL": self.url, "REDFLARE_SECURE": "0"}


@dataclass(frozen=True, slots=True)
class UpFolder:
    """Data, workspaces and logs of one federation."""

    path: Path

    @property
    def lock(self) -> Path:
        return self.path / "lock"

    @property
    def redis(self) -> Path:
        return self.path / "redis"

    def workspace(self, name: str) -> Path:
        """The workspace of the server or of a site; an agent shares its site's."""
        return self.path / name

    def log(self, name: str) -> Path:
        return self.path / "logs" / f"{name}.log"

    def prepare(self, names: Iterable[str]) -> None:
        """Make the folder and the workspaces; what is there is left as it is, so that a user can edit it.

        Raises:
            ConfigError: it cannot be written.
        """
        try:
            for folder in (self.path, self.path / "logs", *map(self.workspace, names)):
                if not folder.is_dir():
                    folder.mkdir(mode=0o700, parents=True)
            for name in names:
                config = self.workspace(name) / CONFIG_FILE
                if not config.exists():
                    config.write_bytes(orjson.dumps(_SETTINGS, option=orjson.OPT_INDENT_2) + b"\n")
        except OSError as error:
            raise ConfigError(f"the folder {self.path} cannot be written: {error}; give another --folder") from error

    def make(self) -> None:
        """Make the folder itself; git ignores a new one, because it holds data, and perhaps a password.

        Raises:
            ConfigError: it cannot be made.
        """
        try:
            if not self.path.exists():
                self.path.mkdir(mode=0o700, parents=True)
                (self.path / ".gitignore").write_text("*\n", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"the folder {self.path} cannot be made: {error}; give another --folder") from error
