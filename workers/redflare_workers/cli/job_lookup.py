"""Finding jobs in the job store: by id or the beginning of one, and for the completion of ids in the shell."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated, Any, Final

import typer
from redflare_broker.errors import RedflareError
from redflare_broker.inspection.redis_read import fqcns, now_of
from redflare_broker.job_store.record import JobRecord
from redflare_broker.job_store.store import JobStore
from redflare_broker.keys import DEFAULT_NAMESPACE, Keys
from redflare_broker.transport.server import ConnectionOptions, Server
from redflare_broker.util.did_you_mean import did_you_mean
from redflare_broker.util.visible import visible

from .connection import Connect, Target, default_url
from .exit_codes import NOT_FOUND, USAGE, fail, note

#: Seconds that a completion may take.
_COMPLETION_TIMEOUT: Final = 1.0

ServerName = Annotated[
    str,
    typer.Option("--server", envvar="REDFLARE_SERVER", help="Name of the server, as in `redflare server --name`."),
]


def complete_job(context: typer.Context, incomplete: str) -> Iterator[tuple[str, str]]:
    """Complete the id of a job in the shell."""
    given: dict[str, Any] = context.params
    connect: Connect = context.obj or Server.connect
    url = given.get("url") or os.environ.get("REDFLARE_URL") or default_url()
    namespace = given.get("namespace") or os.environ.get("REDFLARE_NAMESPACE") or DEFAULT_NAMESPACE
    name = given.get("server") or os.environ.get("REDFLARE_SERVER") or "server"
    with suppress(RedflareError):
        options = ConnectionOptions(
            username=given.get("user") or os.environ.get("REDFLARE_USER"),
            password_file=given.get("password_file") or os.environ.get("REDFLARE_PASSWORD_FILE"),
            ca_cert=given.get("ca_cert") or os.environ.get("REDFLARE_CA_CERT"),
            connect_timeout=_COMPLETION_TIMEOUT,
            socket_timeout=_COMPLETION_TIMEOUT,
        )
        with connect(url, options) as server:
            records = JobStore(server, Keys(namespace).store(name), stop=lambda: True).list()
        for record in records:
            if record.id.startswith(incomplete):
                yield record.id, visible(f"{record.name} {record.status}")


#: The argument of a command that names a job in the store.
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
    """Return the job store of a server, with its policy; its methods raise Unavailable at once if Redis is away."""
    return JobStore.as_server_keeps_it(target.server, Keys(target.namespace).store(server), stop=lambda: True)


def find(store: JobStore, job: str) -> JobRecord | None:
    """Find a job by its id, or by the beginning of it if that is unique; several matches end the command."""
    with suppress(ValueError):  # not a legal id
        if record := store.get(job):
            return record
    matching = [record for record in store.list() if job and record.id.startswith(job)]
    if len(matching) > 1:
        ids = ", ".join(record.id for record in matching[:4])
        fail(f"{job!r} matches {len(matching)} jobs: {ids}{' ...' if len(matching) > 4 else ''}", USAGE)
    return matching[0] if matching else None


def need(store: JobStore, job: str) -> JobRecord:
    """Find a job as ``find`` does; end the command if there is none."""
    record = find(store, job)
    if record is None:
        server = store.keys.fqcn
        command = "redflare job list" + ("" if server == "server" else f" --server {server}")
        fail(f"{server} has no job {job!r}: `{command}` shows all jobs", NOT_FOUND)
    return record


def servers_in(target: Target) -> list[str]:
    """Find the servers of the namespace that have a job store."""
    names = list(target.server.scan(f"{target.namespace}:{{*}}:[djp]*"))
    return sorted({fqcn for suffix in ("jobs", "policy", "deleted") for fqcn in fqcns(target.namespace, names, suffix)})


def note_if_unknown(target: Target, server: str) -> None:
    """Tell the operator if no server of a name has ever run here, nor been given a job."""
    known = servers_in(target)
    if server not in known:
        others = f"known are {', '.join(known)}" if known else "no other either"
        note(f"no server {server!r} is known in namespace {target.namespace!r}{did_you_mean(server, known)} ({others})")


def is_server_running(target: Target, server: str) -> bool:
    """Whether a server has a heartbeat."""
    key = Keys(target.namespace).cell(server).heartbeat
    with target.server.borrow(key) as connection:
        return connection.call("GET", key) is not None


def redis_now(target: Target) -> int:
    """Read Redis's clock, in ms."""
    with target.server.borrow(Keys(target.namespace).agents) as connection:
        return now_of(connection.call("TIME"))
