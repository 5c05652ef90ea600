"""``workspace_lock``: one process at a time serves a workspace."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from redflare_broker.errors import ConfigError

from .site_settings import LOCAL_FOLDER

LOCK_FILE: Final = "lock"


@contextmanager
def workspace_lock(workspace: Path) -> Iterator[None]:
    """Hold the lock of a workspace during the context; the kernel gives it back when the process dies.

    Raises:
        ConfigError: another process has it.
    """
    path = workspace / LOCAL_FOLDER / LOCK_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.read(handle, 20).decode(errors="replace").strip() or "?"
            raise ConfigError(
                f"process {owner} serves the workspace {workspace} already; stop it, or use another one"
            ) from error
        os.truncate(handle, 0)
        os.write(handle, b"%d\n" % os.getpid())
        yield
    finally:
        os.close(handle)
