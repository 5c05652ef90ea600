"""The options of the commands that run something: where Redis is, and in which folder they work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Url = Annotated[str, typer.Option("--url", "-u", envvar="REDFLARE_URL", help="Server, in any form the agents use.")]
Workspace = Annotated[
    Path,
    typer.Option(
        "--workspace",
        "-w",
        envvar="REDFLARE_WORKSPACE",
        help="Folder with comm_config.json, startup/ and local/; all optional.",
    ),
]
Secure = Annotated[
    bool,
    typer.Option("--secure", envvar="REDFLARE_SECURE", help="TLS only: startup/rootCA.pem must be there."),
]
