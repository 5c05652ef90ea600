"""``Refusals``: why results of sites could not be used, for the reason with which a workflow ends."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from redflare_broker.util import humanize

#: Sites that a reason names, and characters of what each of them reports.
_NAMED: Final = 5
_LONGEST: Final = 300


class Refusals:
    """The first cause of each site since its last usable result, and how many there were in a row."""

    def __init__(self) -> None:
        self._of: dict[str, tuple[int, str]] = {}

    def add(self, site: str, why: str) -> None:
        """Note that a result of a site could not be used."""
        count, first = self._of.get(site, (0, why))
        self._of[site] = count + 1, first

    def forget(self, site: str) -> None:
        """Note that a result of a site could be used."""
        self._of.pop(site, None)

    def all_of(self, sites: Collection[str], in_a_row: int) -> bool:
        """Whether the last so many results of each of these sites could not be used."""
        return all(self._of.get(site, (0, ""))[0] >= in_a_row for site in sites)

    def __str__(self) -> str:
        """``: site-1: update.w holds NaN; ...``, or "" if there are none."""
        named = [f"{site}: {' '.join(why.split())[:_LONGEST]}" for site, (_, why) in self._of.items()]
        return f": {humanize.first(named, _NAMED, '; ', '; ')}" if named else ""
