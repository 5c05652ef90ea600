"""How a command reaches Redis: its connection options, the ``Target`` that it gets, and its errors as exit codes."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

import typer
from redflare_broker.errors import ConfigError, Unavailable
from redflare_broker.keys import DEFAULT_NAMESPACE
from redflare_broker.transport.replies import sentence
from redflare_broker.transport.retries import Retries
from redflare_broker.transport.server import ConnectionOptions, Server
from redflare_broker.transport.url import ServerUrl
from redflare_broker.util import humanize

from redflare_workers.up import DEFAULT_FOLDER

if TYPE_CHECKING:
    from redflare_broker.inspection.federation import Inspector

from .exit_codes import INTERRUPTED, UNAVAILABLE, USAGE, exit_on_error, fail, note

DEFAULT_URL: Final = "redis://127.0.0.1:6379/0"
URL_HELP: Final = "URL of Redis: redis://, rediss:// (TLS), unix://, redis+cluster:// or redis+sentinel://."

_option = functools.partial(typer.Option, rich_help_panel="Connection")


def default_url() -> str:
    """Return the URL of the ``redflare up`` that runs in the current folder, or that of a Redis on this machine."""
    if not Path(DEFAULT_FOLDER).is_dir():
        return DEFAULT_URL
    from redflare_workers.up.running import RunningUp  # most commands do without

    running = RunningUp.find(Path(DEFAULT_FOLDER))
    return DEFAULT_URL if running is None else running.url


def checked_url(context: typer.Context, parameter: typer.CallbackParam, url: str | None) -> str | None:
    """Find the URL when none is given; warn of a password in the command line, which all users of the machine can read.

    A callback of --url.
    """
    source = context.get_parameter_source("url")
    if source is not None and source.name == "DEFAULT" and parameter.envvar:
        return default_url()
    if url and source is not None and source.name == "COMMANDLINE":
        with suppress(ConfigError):  # which the command reports
            if ServerUrl.parse(url).password is not None:
                instead = ": use a password file, or set REDFLARE_URL instead" if parameter.envvar else ""
                text = f"other users of this machine can see the password in --url (ps){instead}"
                typer.echo(f"redflare: warning: {text}", err=True)
    return url


#: --url of a command that starts a Redis of its own when none is given.
OptionalUrl: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--url",
        "-u",
        help=f"{URL_HELP[:-1]}; default: an embedded one. REDFLARE_URL is ignored.",
        callback=checked_url,
    ),
]


def existing_folder(folder: Path | None) -> Path | None:
    """End the command if there is no such folder, and say what there is; a callback of --workspace."""
    if folder is not None and not folder.is_dir():
        fail(_no_folder(folder), USAGE)
    return folder


def _no_folder(folder: Path) -> str:
    if folder.exists():
        return f"--workspace {folder} is no folder"
    above = next(parent for parent in folder.absolute().parents if parent.is_dir())
    found = sorted(each.name for each in above.iterdir() if each.is_dir() and not each.name.startswith("."))
    alike = difflib.get_close_matches(folder.absolute().relative_to(above).parts[0], found, n=1)
    there = f"did you mean {above / alike[0]}?" if alike else f"{above} has {humanize.first(found, 5) or 'no folders'}."
    return f"there is no folder {folder} for --workspace; {there} A new one is made by mkdir -p {folder}"


#: Opens the connection; a test puts another one into the context's ``obj``.
Connect = Callable[[str, ConnectionOptions], Server]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The Redis and the namespace that a command works on."""

    server: Server
    namespace: str
    #: as it was given
    url: str = field(default="", repr=False)

    @property
    def inspector(self) -> Inspector:
        from redflare_broker.inspection.federation import Inspector  # a health check does without

        return Inspector(self.server, self.namespace)


def connected(command: Callable[..., None]) -> Callable[..., None]:
    """Add the connection options to a command, pass it a ``Target``, and turn its errors into exit codes.

    A command that takes a workspace connects as its settings say, but for what an option says.
    """

    @exit_on_error()
    @functools.wraps(command)
    def run(**given: Any) -> None:
        context: typer.Context = given.pop("context")
        connection = {name: given.pop(name) for name in _OPTIONS}
        base = ConnectionOptions()
        if (workspace := given.get("workspace")) is not None:
            from redflare_broker.config.settings import load_settings  # most commands do without

            settings = load_settings(workspace)
            base = settings.connection
            source = context.get_parameter_source("namespace")
            if source is not None and source.name == "DEFAULT":
                connection["namespace"] = settings.namespace
        try:
            with _open(context, base, **connection) as server:
                server.retries = _retries(connection["patience"])
                target = Target(server=server, namespace=connection["namespace"], url=connection["url"])
                command(target, **given)
        except Unavailable as error:
            if error.cause:
                fail(str(error), UNAVAILABLE)
            text = sentence(error)
            question = "" if text.endswith("?") else " Is Redis up?"
            fail(f"{text}{question} Set its URL with --url or REDFLARE_URL.", UNAVAILABLE)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None

    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    shared = inspect.signature(_open, eval_str=True).parameters
    options = [shared[name] for name in ("context", *_OPTIONS)]
    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in (*own, *options)]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _open(
    context: typer.Context,
    base: ConnectionOptions,
    *,
    url: Annotated[
        str, _option("--url", "-u", envvar="REDFLARE_URL", help=URL_HELP, callback=checked_url)
    ] = DEFAULT_URL,
    namespace: Annotated[
        str, _option("--namespace", "-n", envvar="REDFLARE_NAMESPACE", help="The federation's namespace.")
    ] = DEFAULT_NAMESPACE,
    user: Annotated[str | None, _option(envvar="REDFLARE_USER", help="ACL user.")] = None,
    password_file: Annotated[
        Path | None, _option(envvar="REDFLARE_PASSWORD_FILE", help="File with the password.")
    ] = None,
    ca_cert: Annotated[
        Path | None, _option(envvar="REDFLARE_CA_CERT", help="TLS: certificate of the CA (PEM).")
    ] = None,
    client_cert: Annotated[
        Path | None, _option(envvar="REDFLARE_CLIENT_CERT", help="TLS: client certificate (PEM).")
    ] = None,
    client_key: Annotated[Path | None, _option(envvar="REDFLARE_CLIENT_KEY", help="TLS: client key (PEM).")] = None,
    any_hostname: Annotated[
        bool, _option("--any-hostname", help="TLS: do not check the host name in the certificate.")
    ] = False,
    patience: Annotated[
        float,
        _option(
            envvar="REDFLARE_PATIENCE",
            min=0,
            help="Seconds for which an unavailable Redis (a restart, a failover) is tried, and tried again; 0: once.",
        ),
    ] = 15.0,
) -> Server:
    """Connect as the options say, and otherwise as ``base`` does."""
    options = {
        "username": user,
        "password_file": password_file,
        "ca_cert": ca_cert,
        "client_cert": client_cert,
        "client_key": client_key,
        "check_hostname": False if any_hostname else None,
    }
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if patience:
        # an attempt takes no longer than all of them may
        given |= {name: min(getattr(base, name), patience) for name in ("connect_timeout", "socket_timeout")}
    connect: Connect = context.obj or Server.connect
    return connect(url, replace(base, **given))


def _retries(seconds: float) -> Retries | None:
    """Make what a command's steps are tried again with; the operator reads at once why it takes longer."""

    def on_failure(error: Unavailable) -> None:
        note(f"{sentence(error)} Trying again for {seconds:g} s.")

    return Retries(seconds, on_failure) if seconds else None


_OPTIONS: Final = tuple(inspect.signature(_open).parameters)[2:]
