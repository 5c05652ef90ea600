"""The options that every command shares, and what happens to its errors."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import typer
from redflare_broker.errors import ConfigError, RedflareError, Unavailable
from redflare_broker.inspection.federation import Inspector
from redflare_broker.keys import DEFAULT_NAMESPACE
from redflare_broker.transport.server import ConnectionOptions, Server

NOT_FOUND: Final = 1
USAGE: Final = 2
UNAVAILABLE: Final = 3
EXIT_CODES: Final = (
    "Exit codes: 0 fine, 1 not found or nothing there, 2 wrong usage, 3 server unavailable or refusing, 130 Ctrl-C."
)
_INTERRUPTED: Final = 130
_PANEL: Final = "Connection"

#: How a command opens its server; a test puts another one into the context's ``obj``.
Connect = Callable[[str, ConnectionOptions], Server]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The server and namespace that a command was pointed at."""

    server: Server
    namespace: str
    #: as it was given
    url: str = ""

    @property
    def inspector(self) -> Inspector:
        return Inspector(self.server, self.namespace)


def fail(message: str, code: int) -> NoReturn:
    """End the command with one line that says what was wrong."""
    typer.echo(f"redflare: {' '.join(message.split())}", err=True)
    raise typer.Exit(code)


def connected(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the connection options; it gets a ``Target`` first, and its errors become lines and exit codes."""

    @functools.wraps(command)
    def run(**given: Any) -> None:
        context: typer.Context = given.pop("context")
        connection = {name: given.pop(name) for name in _OPTIONS}
        try:
            with _open(context, **connection) as server:
                target = Target(server=server, namespace=connection["namespace"], url=connection["url"])
                command(target, **given)
        except ConfigError as error:
            fail(str(error), USAGE)
        except Unavailable as error:
            fail(f"{str(error).rstrip('.')}. Is the server up? Name another with --url or REDFLARE_URL.", UNAVAILABLE)
        except RedflareError as error:
            fail(str(error), UNAVAILABLE)
        except KeyboardInterrupt:
            raise typer.Exit(_INTERRUPTED) from None

    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own] + _parameters()
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _open(
    context: typer.Context,
    *,
    url: Annotated[
        str, typer.Option("--url", "-u", envvar="REDFLARE_URL", help="Server, in any form the agents use.")
    ] = "redis://127.0.0.1:6379/0",
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", envvar="REDFLARE_NAMESPACE", help="The federation's namespace.")
    ] = DEFAULT_NAMESPACE,
    user: Annotated[str | None, typer.Option(envvar="REDFLARE_USER", help="ACL user.")] = None,
    password_file: Annotated[
        Path | None, typer.Option(envvar="REDFLARE_PASSWORD_FILE", help="File that holds the password.")
    ] = None,
    ca_cert: Annotated[
        Path | None, typer.Option(envvar="REDFLARE_CA_CERT", help="TLS: the authority's certificate (PEM).")
    ] = None,
    client_cert: Annotated[
        Path | None, typer.Option(envvar="REDFLARE_CLIENT_CERT", help="TLS: own certificate (PEM).")
    ] = None,
    client_key: Annotated[Path | None, typer.Option(envvar="REDFLARE_CLIENT_KEY", help="TLS: own key (PEM).")] = None,
    any_hostname: Annotated[
        bool, typer.Option("--any-hostname", help="TLS: the certificate may name another host.")
    ] = False,
) -> Server:
    options = ConnectionOptions(
        username=user,
        password_file=password_file,
        ca_cert=ca_cert,
        client_cert=client_cert,
        client_key=client_key,
        check_hostname=not any_hostname,
    )
    connect: Connect = context.obj or Server.connect
    return connect(url, options)


_OPTIONS: Final = tuple(inspect.signature(_open).parameters)[1:]


def _parameters() -> list[inspect.Parameter]:
    """The parameters of ``_open`` with their options set in a panel of their own."""
    context, *parameters = inspect.signature(_open, eval_str=True).parameters.values()
    for parameter in parameters:
        for option in parameter.annotation.__metadata__:
            option.rich_help_panel = _PANEL
    return [context.replace(kind=inspect.Parameter.KEYWORD_ONLY), *parameters]
