"""Names of the workflows that ship, apart from them: the command's help then loads no numpy."""

from __future__ import annotations

from enum import StrEnum


class Workflow(StrEnum):
    """The values of ``--workflow``."""

    FEDAVG = "fedavg"
    CYCLIC = "cyclic"
    CROSS_SITE_EVAL = "cross-site-eval"
    FEDBUFF = "fedbuff"
