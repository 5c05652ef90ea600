"""A site's client parent, in a process that a test kills."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from multiprocessing.connection import Connection

from redflare_workers.client.parent.client_engine import ClientEngine
from redflare_workers.workspace.site_settings import Site, SiteArgs, load_site_settings

from tests.programs.child_pipe import ParentPipe


@dataclass(frozen=True, kw_only=True)
class ClientParentArgs:
    """Arguments of the program."""

    url: str
    workspace: str
    site: str


def main(connection: Connection, log: str, args: ClientParentArgs) -> None:
    """Serve until the test ends it; tells ("ended", why)."""
    logging.basicConfig(level=logging.DEBUG, format="%(asctime)s %(threadName)s %(message)s")
    pipe = ParentPipe(connection, log)
    site = Site(name=args.site, settings=load_site_settings(args.workspace))
    engine = ClientEngine(site, SiteArgs(workspace=args.workspace, redis_url=args.url))

    def run() -> None:
        pipe.send("ended", engine.run())

    pipe.send("started")
    pipe.run_command(run)
    pipe.serve({"stop": engine.stop})
