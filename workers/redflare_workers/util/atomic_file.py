"""Files and folders of runs, which only their owner can read; files are replaced in one step, and found whole."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def replacing(path: str | os.PathLike[str], *, make_folder: bool = True) -> Iterator[IO[bytes]]:
    """Open a temporary file that replaces ``path`` at the end; if the block raises, ``path`` is unchanged.

    Only its owner can read it.

    Args:
        make_folder: make the folder, if there is none.

    Raises:
        OSError: it cannot be written.
    """
    target = Path(path)
    if make_folder:
        target.parent.mkdir(parents=True, exist_ok=True)
    # of mode 0600, so it is for its owner only
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise
    sync_folder(target.parent)


def private_folder(path: str | os.PathLike[str]) -> Path:
    """Make a folder that only its owner can enter, and those above it that are missing; one that exists is kept."""
    folder = Path(path)
    if not folder.is_dir():
        private_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def open_private(path: str, flags: int) -> int:
    """Open a file, which only its owner can read if it is made now; an ``opener`` of ``open``."""
    return os.open(path, flags, 0o600)


def sync_folder(folder: Path) -> None:
    """Make the rename survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
