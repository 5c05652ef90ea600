"""Exit codes of the commands, and ``fail``, which ends one with an error message."""

from __future__ import annotations

from typing import Final, NoReturn

import typer

#: Not found, or the command ran and its result is a failure.
FAILED: Final = 1
NOT_FOUND: Final = 1
USAGE: Final = 2
UNAVAILABLE: Final = 3
INTERRUPTED: Final = 130
#: The line below the help of most commands.
EXIT_CODES: Final = (
    "Exit codes: 0 fine, 1 not found or nothing there, 2 wrong usage, 3 Redis is unavailable or refuses, 130 Ctrl-C."
)


def fail(message: str, code: int) -> NoReturn:
    """End the command with a message on one line of standard error."""
    typer.echo(f"redflare: {' '.join(message.split())}", err=True)
    raise typer.Exit(code)
