"""The server's side of a job: a controller, and what serves the sites that take part."""

from __future__ import annotations

from .server_job import ServerJob
from .server_parent import ServerParent

__all__ = ["ServerJob", "ServerParent"]
