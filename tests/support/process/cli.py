"""The redflare command in this process, for tests."""

from __future__ import annotations

import json
from typing import Any

import fakeredis
from redflare_broker.transport.server import ConnectionOptions, Server
from redflare_workers.cli.app import app
from typer.testing import CliRunner, Result


class Cli:
    """Runs the command in this process, on fakeredis."""

    def __init__(self) -> None:
        self.client = fakeredis.FakeRedis(server=fakeredis.FakeServer())
        self.connections: list[tuple[str, ConnectionOptions]] = []

    def connect(self, url: str, options: ConnectionOptions) -> Server:
        self.connections.append((url, options))
        return Server.connect(client=self.client)

    def __call__(self, *args: str, columns: int = 80, **env: str | None) -> Result:
        runner = CliRunner(env={"COLUMNS": str(columns), "NO_COLOR": "1", **env})
        return runner.invoke(app, list(args), obj=self.connect)

    def json(self, *args: str) -> Any:
        return json.loads(self(*args, "--json").stdout)
