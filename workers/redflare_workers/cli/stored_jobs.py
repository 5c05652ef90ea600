"""The job store as the commands of ``redflare job`` use it: found by options, jobs by the beginning of their ids."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated, Any, Final

import typer
from redflare_broker.errors import RedflareError
from redflare_broker.inspection.redis_read import now_of
from redflare_broker.job_store.record import JobRecord
from redflare_broker.job_store.store import JobStore
from redflare_broker.keys import DEFAULT_NAMESPACE, Keys
from redflare_broker.transport.server import ConnectionOptions, Server
from redflare_broker.util import humanize

from .connecting import NOT_FOUND, USAGE, Connect, Target, fail

#: Seconds that the completion of a word may take.
_COMPLETE_WITHIN: Final = 1.0

ServerName = Annotated[
    str,
    typer.Option("--server", envvar="REDFLARE_SERVER", help="Name of the server, as `redflare server --name` says."),
]


def complete_job(context: typer.Context, incomplete: str) -> Iterator[tuple[str, str]]:
    """Ids of jobs, for the shell."""
    given: dict[str, Any] = context.params
    connect: Connect = context.obj or Server.connect
    url = given.get("url") or os.environ.get("REDFLARE_URL") or "redis://127.0.0.1:6379/0"
    namespace = given.get("namespace") or os.environ.get("REDFLARE_NAMESPACE") or DEFAULT_NAMESPACE
    name = given.get("server") or os.environ.get("REDFLARE_SERVER") or "server"
    with suppress(RedflareError):
        options = ConnectionOptions(
            username=given.get("user") or os.environ.get("REDFLARE_USER"),
            password_file=given.get("password_file") or os.environ.get("REDFLARE_PASSWORD_FILE"),
            ca_cert=given.get("ca_cert") or os.environ.get("REDFLARE_CA_CERT"),
            connect_timeout=_COMPLETE_WITHIN,
            socket_timeout=_COMPLETE_WITHIN,
        )
        with connect(url, options) as server:
            records = JobStore(server, Keys(namespace).store(name), stop=lambda: True).list()
        for record in records:
            if record.id.startswith(incomplete):
                yield record.id, f"{record.name} {record.status}"


#: Id of a job in the store.
StoredJob = Annotated[
    str,
    typer.Argument(
        metavar="JOB",
        help="The job's id, or the beginning of it.",
        show_default=False,
        autocompletion=complete_job,
    ),
]


def store_of(target: Target, server: str) -> JobStore:
    """The jobs of a server; a Redis that is away is not waited for."""
    return JobStore(target.server, Keys(target.namespace).store(server), stop=lambda: True)


def find(store: JobStore, said: str) -> JobRecord | None:
    """A job by its id or, if that tells it from the others, the beginning of it."""
    with suppress(ValueError):  # it may be no id
        if record := store.get(said):
            return record
    alike = [record for record in store.list() if said and record.id.startswith(said)]
    if len(alike) > 1:
        ids = ", ".join(record.id for record in alike[:4])
        fail(f"{said!r} is the beginning of {len(alike)} jobs: {ids}{' ...' if len(alike) > 4 else ''}", USAGE)
    return alike[0] if alike else None


def need(store: JobStore, said: str) -> JobRecord:
    """As ``find``; ends the command when there is none."""
    record = find(store, said)
    if record is None:
        fail(f"{store.keys.fqcn} has no job {said!r}: `redflare job list` shows those that are there", NOT_FOUND)
    return record


def server_there(target: Target, server: str) -> bool:
    """Whether the process of a server is heard of."""
    key = Keys(target.namespace).cell(server).heartbeat
    with target.server.borrow(key) as connection:
        return connection.call("GET", key) is not None


def now(target: Target) -> int:
    """Milliseconds by Redis's clock."""
    with target.server.borrow(Keys(target.namespace).agents) as connection:
        return now_of(connection.call("TIME"))


def ago(ms: int, since: int) -> str:
    """``3 min ago``."""
    return f"{humanize.age((ms - since) / 1000)} ago"
