"""Fixtures for jobs on fakeredis."""

from tests.support.job.fixtures import job, redis

__all__ = ["job", "redis"]
