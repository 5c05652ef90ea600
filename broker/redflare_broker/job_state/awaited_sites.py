"""``AwaitedSites``: the sites that have to join a job before its controller begins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

import orjson

from redflare_broker.util import humanize

#: Names of sites before the rest is counted.
_NAMED: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class AwaitedSites:
    """The sites without which a job's controller does not begin yet."""

    #: Names of those that are awaited and have not joined; none: any will do.
    sites: tuple[str, ...] = ()
    #: How many more are needed in any case.
    least: int = 0
    #: Until when all of them are awaited, in ms by the server's clock; 0: only ``least`` more are.
    until: int = 0

    def describe(self, now: int) -> str:
        """Say for whom the controller waits, and for how long; ``now`` in ms."""
        names = humanize.first(self.sites, _NAMED)
        if not self.until or self.least >= len(self.sites):
            needed = f"waiting for {self.least} more site{'s' * (self.least != 1)} to join"
            return f"{needed}: {names}" if names else needed
        left = humanize.age((self.until - now) / 1000)
        if self.least:
            return f"waiting for {names} to join, {self.least} of them at least; begins without the others in {left}"
        return f"waiting for {names} to join; begins without {'them' if len(self.sites) > 1 else 'it'} in {left}"

    def to_json(self) -> bytes:
        """Encode it as it is stored in the job's hash."""
        return orjson.dumps(self)

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read what ``to_json`` has made; None: nobody is awaited, or it cannot be read."""
        try:
            data = orjson.loads(text)
            return cls(sites=tuple(map(str, data["sites"])), least=int(data["least"]), until=int(data["until"]))
        except (ValueError, KeyError, TypeError):
            return None
