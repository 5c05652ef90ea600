"""``redflare up``: Redis, a server, sites and their agents on this machine, each a process that is kept running.

Start at: ``supervisor.LocalFederation``, which starts and ends what ``plan.make_plan`` lists. ``up_folder`` is the one
place that makes workspaces and says how to reach Redis; ``running`` is how commands find it; ``redis_main`` is the
program around the embedded Valkey. Server, sites and agents are commands of ``redflare``, run by ``cli.kept_main``.

May import: workspace, processes, util and the broker.
"""

from __future__ import annotations

from typing import Final

#: Default of ``--folder``; commands look for it in the current folder.
DEFAULT_FOLDER: Final = "redflare-up"
