"""The server's side of a job: a controller, and what serves the sites that take part."""

from __future__ import annotations

from .server_job import ServerJob

__all__ = ["ServerJob"]
