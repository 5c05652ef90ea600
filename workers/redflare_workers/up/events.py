"""Events of ``redflare up``: reported by its processes and by signals, handled in one thread, shown by the command."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from redflare_workers.util.signals import Signalled


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A process was started."""

    name: str
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A process has written lines."""

    name: str
    lines: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A process is connected."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Died:
    """A process that was connected has ended by itself, or could not be started again."""

    name: str
    how: str
    #: seconds until it is started again; None: it is not
    pause: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CannotRun:
    """A process has ended before it was ever connected: everything ends."""

    name: str
    code: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Over:
    """A process has ended, and is not started again."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected:
    """All processes are connected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """All processes are being ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Noted:
    """Something that the user should know."""

    text: str


Event = Started | Said | Ready | Died | CannotRun | Over | Connected | Ending | Noted | Signalled

Emit = Callable[[Event], object]
