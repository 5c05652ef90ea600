"""Jobs on a server inside this process, for all tests of this folder."""

from tests.support.job.fixtures import job, redis

__all__ = ["job", "redis"]
