"""Functions of Redis in the place of scripts, for users who may run what was loaded, but no script of their own.

A caller always sends EVALSHA. A connection whose ``functions`` is true sends FCALL instead, of the function that does
the same as the script of that SHA-1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from .replies import Command


class NamedStep(Protocol):
    """What has a function in Redis."""

    @property
    def function(self) -> str:
        """The function's name."""
        ...


#: By the SHA-1 of their scripts: the steps of which commands were made.
steps: Final[dict[str, NamedStep]] = {}


def as_functions(commands: Sequence[Command]) -> list[Command]:
    """Make an FCALL of each EVALSHA; KeyError: no step has this script."""
    return [
        ["FCALL", steps[str(command[1])].function, *command[2:]] if command[0] == "EVALSHA" else command
        for command in commands
    ]
