"""``SiteHeads``: the last entry of each site's audit log, as the site has told; the server's own log notes them.

By them a site that cuts its log is found: ``redflare audit verify --against``.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

from redflare_workers.audit.entry import AuditHead


@dataclass(slots=True, eq=False)
class SiteHeads:
    """Thread-safe; for sites that are known to the server, so that there are no more heads than sites."""

    _guard: threading.Lock = field(default_factory=threading.Lock, init=False)
    _heads: dict[str, AuditHead] = field(default_factory=dict, init=False)

    def note(self, site: str, head: object) -> None:
        """Note the head that a site has told; what is none is ignored."""
        if (found := AuditHead.parse(head)) is not None:
            with self._guard:
                self._heads[site] = found

    def of(self, sites: Iterable[str]) -> dict[str, str]:
        """Return the heads of sites, of those that have told."""
        with self._guard:
            return {site: str(self._heads[site]) for site in sites if site in self._heads}

    def __repr__(self) -> str:
        return f"<SiteHeads of {len(self._heads)} sites>"
