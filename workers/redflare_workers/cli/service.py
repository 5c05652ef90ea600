"""What ``redflare server``, ``site`` and ``agent run`` share: options, log, signals, exit codes, and ``--check``."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, NoReturn

import typer
from redflare_broker.cell.cell_heartbeat import parse_heartbeat
from redflare_broker.config.settings import LinkSettings
from redflare_broker.errors import Unavailable
from redflare_broker.keys import Keys
from redflare_broker.transport.server import Server
from redflare_broker.util import humanize

from redflare_workers.util.log_format import log_to_stderr
from redflare_workers.util.signals import stopping_signals

from . import display
from .connection import URL_HELP, checked_url, existing_folder
from .exit_codes import FAILED, INTERRUPTED, NOT_FOUND, TAKEN, note

#: Heartbeats that may be missing before ``--check`` fails.
_MISSED_BEATS: Final = 4
EXIT_CODES: Final = (
    "Exit codes: 0 stopped as requested, 1 it ended by itself (--check: not running), 2 wrong usage, "
    "3 Redis cannot be used, 4 another process has its name, 130 Ctrl-C."
)


class Level(StrEnum):
    """The values of ``--log-level``."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


Url = Annotated[str, typer.Option("--url", "-u", envvar="REDFLARE_URL", help=URL_HELP, callback=checked_url)]
Workspace = Annotated[
    Path,
    typer.Option(
        "--workspace",
        "-w",
        envvar="REDFLARE_WORKSPACE",
        help="Existing folder with comm_config.json, startup/ and local/; all optional.",
        callback=existing_folder,
    ),
]
Secure = Annotated[bool, typer.Option("--secure", envvar="REDFLARE_SECURE", help="Require TLS and startup/rootCA.pem.")]
LogLevel = Annotated[Level, typer.Option(envvar="REDFLARE_LOG_LEVEL", help="Level of the log on standard error.")]
Check = Annotated[
    bool, typer.Option("--check", help="Start nothing; check whether it is running: exit code 0, or 1 if not.")
]

TakeOver = Annotated[
    bool, typer.Option("--take-over", help="Replace a living process of this name, which ends; else it is refused.")
]


def serve(
    name: str,
    url: str,
    settings: LinkSettings,
    run: Callable[[], str],
    stop: Callable[[str], object],
    replaced: Callable[[], bool],
    level: Level,
    *,
    as_json: bool,
) -> None:
    """Run until a signal, or until it ends by itself.

    Args:
        run: returns why it has ended.
        stop: makes ``run`` return; called from a signal handler with the reason.
        replaced: whether another process of its name has taken over.
    """
    log_to_stderr(level.upper())
    received: list[int] = []

    def on_signal(number: int, _frame: object) -> None:
        received.append(number)
        stop(f"received {signal.Signals(number).name}")

    for number in stopping_signals():
        signal.signal(number, on_signal)
    print_event("started", f"{name}, process {os.getpid()}", as_json=as_json)
    _note_if_redis_is_away(url, settings)
    reason = run()
    print_event("ended", reason, as_json=as_json)
    if signal.SIGINT in received:
        raise typer.Exit(INTERRUPTED)
    if not received:
        raise typer.Exit(TAKEN if replaced() else FAILED)


def _note_if_redis_is_away(url: str, settings: LinkSettings) -> None:
    key = Keys(settings.namespace).agents
    with Server.connect(url, settings.connection) as server:
        try:
            with server.borrow(key) as connection:
                connection.call("PING")
        except Unavailable as error:
            note(f"{str(error).rstrip('.')}; waiting for it")


def print_event(event: str, text: str, *, as_json: bool) -> None:
    """Print an event: a JSON document on one line, or a line on standard error, beside the log."""
    if as_json:
        display.print_json({"event": event, "pid": os.getpid(), "text": text}, lines=True)
    else:
        display.say(f"redflare: {event}: {text}", err=True)


def check(
    url: str, settings: LinkSettings, fqcn: str, heartbeat: str, *, closed: tuple[str, str], as_json: bool
) -> NoReturn:
    """Print whether a process is running, by the key of its heartbeat, and end the command.

    ``closed`` are the key and the field that are not 0 when it has disconnected.
    """
    with Server.connect(url, settings.connection) as server, server.borrow(heartbeat) as connection:
        beat, pttl, left = connection.pipeline([["GET", heartbeat], ["PTTL", heartbeat], ["HGET", *closed]])
    last = parse_heartbeat(beat, pttl) if left in (None, b"0") else None
    is_running = last is not None and last.age <= _MISSED_BEATS * last.interval
    found = "no heartbeat found" if last is None else f"last heartbeat {humanize.age(last.age)} ago"
    document = {"fqcn": fqcn, "connected": is_running, "beat_age": last.age if last else None}
    display.output(document, f"{fqcn}: {found}", as_json=as_json)
    raise typer.Exit(0 if is_running else NOT_FOUND)
