"""Fixtures for jobs on fakeredis."""

from tests.support.job.fixtures import job, redis, threads

__all__ = ["job", "redis", "threads"]
