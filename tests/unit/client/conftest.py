"""Jobs on a server inside this process, for all tests of this folder."""

from tests.job_fixtures import job, redis

__all__ = ["job", "redis"]
