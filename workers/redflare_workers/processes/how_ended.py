"""How a process came to its end when a job was aborted; said in proofs, reports and records."""

from __future__ import annotations

from typing import Final

#: It heeded the abort.
COOPERATIVE: Final = "cooperative"
#: It heeded SIGTERM.
TERMINATED: Final = "terminated"
#: SIGKILL.
KILLED: Final = "killed"
#: There was none.
NOT_RUNNING: Final = "not running"
