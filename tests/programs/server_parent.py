"""The server's parent process, in a process that a test kills."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from multiprocessing.connection import Connection

from redflare_broker.config.retention import JobRetentionPolicy
from redflare_workers.server.parent.server_parent import ServerParent

from tests.programs.child_pipe import ParentPipe


@dataclass(frozen=True, kw_only=True)
class ServerParentArgs:
    """Arguments of the program."""

    url: str
    workspace: str
    policy: JobRetentionPolicy
    max_jobs: int = 0
    take_over: bool = False


def main(connection: Connection, log: str, args: ServerParentArgs) -> None:
    """Serve until the test ends it; tells ("ready"), and ("ended", why)."""
    logging.basicConfig(level=logging.DEBUG, format="%(asctime)s %(threadName)s %(message)s")
    pipe = ParentPipe(connection, log)
    server = ServerParent(
        args.workspace, args.url, policy=args.policy, max_jobs=args.max_jobs, take_over=args.take_over
    )
    server.on_ready = lambda: pipe.send("ready")

    def run() -> None:
        pipe.send("ended", server.run())

    pipe.send("started")
    pipe.run_command(run)
    pipe.serve({"stop": server.stop})
