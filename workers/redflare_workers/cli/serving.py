"""What ``redflare server`` and ``redflare site`` share: log, signals, errors as exit codes, and the check of one."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, NoReturn

import orjson
import typer
from redflare_broker.config.settings import LinkSettings, load_settings
from redflare_broker.errors import ConfigError, RedflareError, Unavailable
from redflare_broker.keys import Keys
from redflare_broker.transport.replies import RedisReply
from redflare_broker.transport.server import Server
from redflare_broker.util import humanize

from . import showing
from .connecting import NOT_FOUND, UNAVAILABLE, USAGE, fail

_REPLACED: Final = 1
_INTERRUPTED: Final = 130
_MISSED: Final = 4
EXIT_CODES: Final = (
    "Exit codes: 0 it ended as it was told to, 1 another process has taken its place (--check: it is not there), "
    "2 wrong usage, 3 the server cannot be used, 130 Ctrl-C."
)
_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class Level(StrEnum):
    """The values of ``--log-level``."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


LogLevel = Annotated[Level, typer.Option(envvar="REDFLARE_LOG_LEVEL", help="What is written to standard error.")]
Check = Annotated[
    bool, typer.Option("--check", help="Start nothing; ask whether it is there (exit code 0) or not (1).")
]


def settings_of(workspace: Path, *, secure: bool) -> LinkSettings:
    """The settings of a workspace; a mistake ends the command."""
    try:
        return load_settings(workspace, secure)
    except ConfigError as error:
        fail(str(error), USAGE)


def serve(
    name: str,
    url: str,
    settings: LinkSettings,
    run: Callable[[], str],
    stop: Callable[[str], object],
    level: Level,
    *,
    as_json: bool,
) -> None:
    """Run until a signal, or until it ends by itself.

    Args:
        name: how it is called for people.
        url: of Redis.
        settings: of the connection.
        run: returns why it has ended.
        stop: lets ``run`` end; called from a signal handler.
    """
    logging.basicConfig(level=level.upper(), format=_FORMAT, stream=sys.stderr)
    got: list[int] = []

    def on_signal(number: int, _frame: object) -> None:
        got.append(number)
        stop(f"it got {signal.Signals(number).name}")

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, on_signal)
    tell(as_json, "started", f"{name}, process {os.getpid()}")
    try:
        _look(url, settings)
        reason = run()
    except ConfigError as error:
        fail(str(error), USAGE)
    except RedflareError as error:
        fail(str(error), UNAVAILABLE)
    tell(as_json, "ended", reason)
    if signal.SIGINT in got:
        raise typer.Exit(_INTERRUPTED)
    if not got:
        raise typer.Exit(_REPLACED)


def _look(url: str, settings: LinkSettings) -> None:
    """Say that Redis is waited for, when it is away."""
    key = Keys(settings.namespace).agents
    with Server.connect(url, settings.connection) as server:
        try:
            with server.borrow(key) as connection:
                connection.call("PING")
        except Unavailable as error:
            typer.echo(f"redflare: note: {str(error).rstrip('.')}; it is waited for", err=True)


def tell(as_json: bool, event: str, text: str) -> None:
    """Something has happened: a document on one line, or words beside the log."""
    if as_json:
        showing.print_json({"event": event, "pid": os.getpid(), "text": text}, lines=True)
    else:
        typer.echo(f"redflare: {event}: {text}", err=True)


def check(
    url: str, settings: LinkSettings, fqcn: str, heartbeat: str, *, closed: tuple[str, str], as_json: bool
) -> NoReturn:
    """Say whether somebody is heard of, and end the command.

    Args:
        fqcn: of whom.
        heartbeat: the key of that.
        closed: key and field that are not 0 when it has said bye.
    """
    try:
        with Server.connect(url, settings.connection) as server, server.borrow(heartbeat) as connection:
            beat, left, bye = connection.pipeline([["GET", heartbeat], ["PTTL", heartbeat], ["HGET", *closed]])
    except ConfigError as error:
        fail(str(error), USAGE)
    except RedflareError as error:
        fail(str(error), UNAVAILABLE)
    age, interval = _age(beat, left)
    if bye not in (None, b"0"):
        age = None
    there = age is not None and age <= _MISSED * interval
    if as_json:
        showing.print_json({"fqcn": fqcn, "connected": there, "beat_age": age})
    else:
        said = "nothing is heard of it" if age is None else f"its last heartbeat was {humanize.age(age)} ago"
        typer.echo(f"{fqcn}: {said}")
    raise typer.Exit(0 if there else NOT_FOUND)


def _age(beat: RedisReply, left: RedisReply) -> tuple[float | None, float]:
    """Seconds since a heartbeat, and between two of them; None: there is none."""
    try:
        facts = orjson.loads(beat if isinstance(beat, bytes) else b"")
        ttl_ms, interval = float(facts["ttl_ms"]), float(facts["interval"])
    except (ValueError, TypeError, KeyError):
        return None, 0.0
    return max(ttl_ms - (left if isinstance(left, int) else 0), 0.0) / 1000, interval
