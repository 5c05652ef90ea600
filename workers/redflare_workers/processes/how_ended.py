"""How a process ended when its job was aborted; used in proofs, reports and records."""

from __future__ import annotations

from typing import Final

#: It ended in order when it was asked to.
COOPERATIVE: Final = "cooperative"
#: It ended on SIGTERM.
TERMINATED: Final = "terminated"
#: It was ended by SIGKILL.
KILLED: Final = "killed"
#: There was no process.
NOT_RUNNING: Final = "not running"
