"""``WorkspaceLock``: one process at a time serves a workspace."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from redflare_broker.errors import ConfigError

from .site_settings import LOCAL_FOLDER

LOCK_FILE: Final = "lock"


class WorkspaceLock:
    """A context manager; the kernel gives the lock back when the process dies.

    Raises:
        ConfigError: another process has it.
    """

    def __init__(self, workspace: Path) -> None:
        self._path = workspace / LOCAL_FOLDER / LOCK_FILE
        self._handle = -1

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.read(handle, 20).decode(errors="replace").strip() or "?"
            os.close(handle)
            raise ConfigError(
                f"process {owner} serves the workspace {self._path.parent.parent} already; stop it, or use another one"
            ) from error
        os.truncate(handle, 0)
        os.write(handle, b"%d\n" % os.getpid())
        self._handle = handle
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._handle)
