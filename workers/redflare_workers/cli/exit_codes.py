"""Exit codes of the commands, and how an error ends one: with a message and its code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NoReturn

import typer
from redflare_broker.errors import ConfigError, NameTaken, RedflareError, ServerError, Unavailable
from redflare_broker.util.visible import visible

from redflare_workers.util.exit_codes import FAILED, INTERRUPTED, TAKEN, UNAVAILABLE, USAGE

__all__ = [
    "EXIT_CODES",
    "FAILED",
    "INTERRUPTED",
    "NOT_FOUND",
    "TAKEN",
    "UNAVAILABLE",
    "USAGE",
    "done_before",
    "exit_on_error",
    "fail",
    "note",
]

NOT_FOUND: Final = FAILED
#: The line below the help of most commands.
EXIT_CODES: Final = (
    "Exit codes: 0 fine, 1 not found or nothing there, 2 wrong usage, 3 Redis is unavailable or refuses, 130 Ctrl-C."
)


def fail(message: str, code: int) -> NoReturn:
    """End the command with a message on one line of standard error."""
    typer.echo(visible(f"redflare: {' '.join(message.split())}"), err=True)
    raise typer.Exit(code)


def note(message: str) -> None:
    """Write a note to standard error; the command goes on."""
    typer.echo(visible(f"redflare: note: {message}"), err=True)


@contextmanager
def done_before(what: str) -> Iterator[None]:
    """End the command as ``exit_on_error`` does, but first say what it has done before the error."""
    try:
        yield
    except (ServerError, Unavailable) as error:
        fail(f"{what}, but then: {error}", UNAVAILABLE)


@contextmanager
def exit_on_error() -> Iterator[None]:
    """End the command with the message and the exit code of an error of redflare; also decorates a command."""
    try:
        yield
    except ConfigError as error:
        fail(str(error), USAGE)
    except NameTaken as error:
        fail(error.advise("--take-over"), TAKEN)
    except RedflareError as error:
        fail(str(error), UNAVAILABLE)
