"""The engine of a site's part in a job."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Final

from redflare_broker.errors import ConfigError
from redflare_broker.fqcn import FQCN

from redflare_workers.apis.fl_constant import ProcessType
from redflare_workers.engine.run_engine import RunEngine

#: By this name components mean the server, whatever its name is.
_SERVER: Final = "server"


class ClientJobEngine(RunEngine):
    """The engine of a client job.

    Args:
        server_name: first part of the FQCN of the server's cell.
        neighbour: FQCN of the cell of a site that runs in this process; None: it does not.
        workspace: root of the folders for what components write.
    """

    def __init__(
        self,
        identity: str,
        job_id: str,
        job_meta: Mapping[str, Any],
        components: Mapping[str, object],
        server_name: str,
        neighbour: Callable[[str], str | None],
        workspace: str | os.PathLike[str] = ".",
    ) -> None:
        self._server_name = server_name
        self._neighbour = neighbour
        super().__init__(identity, job_id, job_meta, ProcessType.CLIENT_JOB, components, workspace)

    def usual_targets(self) -> list[str]:
        """Return the server."""
        return [_SERVER]

    def find_peer(self, name: str) -> str | None:
        """FQCN of the cell of the server or of another site."""
        try:
            if name in (_SERVER, self._server_name):
                return FQCN.join([self._server_name, self.job_id])
            return self._neighbour(name) or FQCN.join([name, self.job_id])
        except ConfigError:
            return None
