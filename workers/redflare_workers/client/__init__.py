"""A site's side of a job: tasks are asked for, carried out, and submitted."""

from __future__ import annotations

from .client_job import ClientJob
from .job_host import JobHost

__all__ = ["ClientJob", "JobHost"]
