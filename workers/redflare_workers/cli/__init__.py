"""The ``redflare`` command."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of the command; it says what to install where only the library is there."""
    try:
        from .app import app
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("typer", "rich", "click"):
            raise
        sys.exit("redflare: the command needs typer and rich, which are not installed: pip install 'redflare[cli]'")
    except KeyboardInterrupt:  # nothing has begun
        sys.exit(130)
    app()
