"""``redflare rights``."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer
from redflare_broker.keys import DEFAULT_NAMESPACE
from redflare_broker.rights import Party

from . import display
from .exit_codes import EXIT_CODES, exit_on_error

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


class PartyKind(StrEnum):
    """Whose rights are shown."""

    SERVER = "server"
    SITE = "site"
    AGENT = "agent"


@app.command(epilog=EXIT_CODES)
@exit_on_error()
def rights(
    kind: Annotated[PartyKind, typer.Argument(help="Whose rights.", show_default=False)],
    name: Annotated[str, typer.Argument(help="Name of the server, site or agent.", show_default=False)],
    site: Annotated[str, typer.Option("--site", help="Site of the agent.", show_default=False)] = "",
    server: Annotated[str, typer.Option("--server", help="Name of the federation's server.")] = "server",
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", envvar="REDFLARE_NAMESPACE", help="Namespace of the federation.")
    ] = DEFAULT_NAMESPACE,
    cluster: Annotated[bool, typer.Option("--cluster", help="Redis is a cluster.")] = False,
    sentinel: Annotated[bool, typer.Option("--sentinel", help="Sentinels name the primary.")] = False,
    as_json: display.Json = False,
) -> None:
    """Print the rules of a user of Redis for one party, to paste behind ACL SETUSER or into users.acl.

    Each party writes its own keys alone, so that what stands in a key proves who
    has written it. Its workspace then has "functions": true in comm_config.json.
    Redis is not asked.

    [bold]Examples[/bold]
    redflare rights site site-1
    redflare rights agent trainer --site site-1
    echo "ACL SETUSER site-1 on >secret $(redflare rights site site-1)" | redis-cli
    """
    party = Party(kind=kind.value, name=name, site=site, server=server, namespace=namespace)
    rules = party.rules(cluster=cluster, sentinel=sentinel)
    display.output({"user": party.user, "rules": rules}, " ".join(rules), as_json=as_json)
