"""The ``redflare`` command.

Start at: ``main``; ``app`` lists the commands and imports the one that is used, from the module of its name (those of
``job`` are in ``job_*``, that of ``demo`` is in ``redflare_workers.demo``). Shared by all: ``connection`` (options),
``exit_codes`` (errors), ``display`` (terminal and JSON); by server, site and agent: ``service``.

May import: everything; nothing imports it.
"""

from __future__ import annotations

import sys

from redflare_broker.util.extras import how_to_install


def main() -> None:
    """Run the command; where typer or rich is missing, say what to install."""
    try:
        # first: Ctrl-C may come at any time
        from redflare_broker.util.inherited_signals import reset_inherited_signals

        reset_inherited_signals()
        from .app import app
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("typer", "rich", "click"):
            raise
        sys.exit(f"redflare: the command needs typer and rich, which are not installed: {how_to_install('cli')}")
    except KeyboardInterrupt:  # before any command
        sys.exit(130)
    app()
