"""What a site allows jobs where it does not say otherwise: known to the reader of its settings and to those of jobs.

Both are imported without the other: the settings are read by commands that read no job.
"""

from __future__ import annotations

from typing import Final

#: Where the components that ship are; of what is there, only components may be named in a job. Nothing else of redflare
#: is reached by a pattern: it has classes that start processes or open connections.
SHIPPED: Final = ("redflare_workers.IPCExchanger", "redflare_workers.apis.*", "redflare_workers.workflow.*")
#: Bytes that an archive unpacks to, at most.
MAX_BYTES: Final = 1 << 30
#: Files and folders in an archive, at most.
MAX_FILES: Final = 10_000
