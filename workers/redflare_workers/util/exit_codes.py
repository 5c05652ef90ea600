"""Exit codes of the ``redflare`` command, and of the programs that it starts as services."""

from __future__ import annotations

from typing import Final

#: The command ran and its result is a failure; a service has ended by itself.
FAILED: Final = 1
USAGE: Final = 2
#: Redis cannot be reached, is not fit, or refuses this user.
UNAVAILABLE: Final = 3
#: Another process has the name of this one: it has taken over, or it was not replaced. Not to be started again.
TAKEN: Final = 4
INTERRUPTED: Final = 130
