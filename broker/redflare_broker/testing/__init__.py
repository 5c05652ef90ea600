"""What users test their trainers and jobs with: a pytest plugin, and a federation on fakeredis.

Start at: ``plugin``, which pytest loads by itself; ``docs/testing.md`` shows it. Needs ``pip install '.[testing]'``.

May import: link, cell, job_state, job_store, payload, runtime, scripts, config, transport, wire, util and the root.
"""

from .plugin import FakeAgent, FakeCJ, LinkUnderTest, TaskNotDone

__all__ = ["FakeAgent", "FakeCJ", "LinkUnderTest", "TaskNotDone"]
