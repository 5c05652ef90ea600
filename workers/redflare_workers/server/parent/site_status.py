"""``SiteStatusTable``: how one job stands at each of its sites, from their reports."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from redflare_workers.protocol.parent_messages import SiteReport
from redflare_workers.protocol.site_job_status import ClientStatus

#: It has not reported yet.
CHOSEN: Final = "chosen"
DEPLOYED: Final = "deployed"
#: The site could not take the job, or its process has failed.
FAILED: Final = ClientStatus.EXCEPTION.label
#: A process runs, or may.
LIVE: Final = (ClientStatus.STARTING.label, ClientStatus.STARTED.label)


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteStatus:
    """How the job stands at one site."""

    #: CHOSEN, DEPLOYED, or ``ClientStatus.label``
    status: str = CHOSEN
    reason: str = ""
    exit_code: int | None = None
    #: how an abort ended it
    how: str = ""

    @property
    def live(self) -> bool:
        """Whether a process runs, or may."""
        return self.status in LIVE


class SiteStatusTable:
    """The sites' statuses by name. Not thread-safe: its owner sees to that."""

    def __init__(self, sites: Iterable[str]) -> None:
        self._sites = {site: SiteStatus() for site in sites}

    def __getitem__(self, site: str) -> SiteStatus:
        return self._sites[site]

    def __contains__(self, site: object) -> bool:
        return site in self._sites

    @property
    def failed(self) -> dict[str, str]:
        """The sites that failed and take part no longer, with the reason."""
        return {site: each.reason or each.status for site, each in self._sites.items() if each.status == FAILED}

    def with_status(self, *statuses: str) -> list[str]:
        return [site for site, each in self._sites.items() if each.status in statuses]

    @property
    def live(self) -> list[str]:
        """The sites with a process."""
        return [site for site, each in self._sites.items() if each.live]

    def change(self, site: str, status: str, reason: str = "", *, exit_code: int | None = None, how: str = "") -> None:
        self._sites[site] = SiteStatus(status=status, reason=reason, exit_code=exit_code, how=how)

    def record(self, report: SiteReport) -> bool:
        """Record a site's report; False: it is known already."""
        status = SiteStatus(status=report.status, reason=report.reason, exit_code=report.exit_code, how=report.how)
        if self._sites[report.site] == status:
            return False
        self._sites[report.site] = status
        return True
