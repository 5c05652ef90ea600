"""``workspace_lock``: one process at a time serves a workspace; ``folder_lock``: the same for any folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from redflare_broker.errors import ConfigError

from .site_settings import LOCAL_FOLDER

LOCK_FILE: Final = "lock"


@dataclass(frozen=True, slots=True)
class WorkspaceHold:
    """A workspace, or another folder, that this process has locked."""

    #: The instance that last served it, which has ended; "" for none.
    last: str
    _handle: int

    def note(self, instance: str) -> None:
        """Note who serves it now, for the next one."""
        os.truncate(self._handle, 0)
        os.pwrite(self._handle, f"{os.getpid()}\n{instance}\n".encode(), 0)


class FolderTaken(ConfigError):
    """Another process has the lock of a folder."""


@contextmanager
def workspace_lock(workspace: Path) -> Iterator[WorkspaceHold]:
    """Hold the lock of a workspace during the context; the kernel gives it back when the process dies.

    Raises:
        FolderTaken: a ConfigError; another process has it.
    """
    with folder_lock(
        workspace / LOCAL_FOLDER / LOCK_FILE,
        lambda owner: f"process {owner} serves the workspace {workspace} already; stop it, or use another one",
    ) as hold:
        yield hold


@contextmanager
def folder_lock(path: Path, refusal: Callable[[str], str]) -> Iterator[WorkspaceHold]:
    """Hold a lock file during the context; the kernel gives it back when the process dies.

    Args:
        refusal: makes the message of the error from the number of the process that has the lock.

    Raises:
        FolderTaken: a ConfigError; another process has it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise FolderTaken(refusal(_lines(handle)[0] or "?")) from error
        hold = WorkspaceHold(_lines(handle)[1], handle)
        hold.note(hold.last)
        yield hold
    finally:
        os.close(handle)


def _lines(handle: int) -> tuple[str, str]:
    """Read the process and the instance of the last holder."""
    process, _, rest = os.pread(handle, 500, 0).decode(errors="replace").partition("\n")
    return process.strip(), rest.partition("\n")[0].strip()
