"""``SiteStatusTable``: how one job stands at each of its sites, as the server's parent has heard."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from redflare_workers.protocol.site_job_status import ClientStatus
from redflare_workers.protocol.site_report import SiteReport

#: Nothing was heard of it yet.
CHOSEN: Final = "chosen"
DEPLOYED: Final = "deployed"
#: The site could not take the job, or its process has failed.
FAILED: Final = ClientStatus.EXCEPTION.label
#: There is, or may be, a process.
LIVE: Final = (ClientStatus.STARTING.label, ClientStatus.STARTED.label)


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteStatus:
    """One site."""

    #: CHOSEN, DEPLOYED, or ``ClientStatus.word``
    status: str = CHOSEN
    reason: str = ""
    exit_code: int | None = None
    #: how an abort ended it
    how: str = ""

    @property
    def live(self) -> bool:
        """There is, or may be, a process."""
        return self.status in LIVE


class SiteStatusTable:
    """By name. Not thread-safe: its owner sees to that."""

    def __init__(self, sites: Iterable[str]) -> None:
        self._sites = {site: SiteStatus() for site in sites}

    def __getitem__(self, site: str) -> SiteStatus:
        return self._sites[site]

    def __contains__(self, site: object) -> bool:
        return site in self._sites

    @property
    def failed(self) -> dict[str, str]:
        """Sites that do not take part any more because something went wrong there, and what."""
        return {site: each.reason or each.status for site, each in self._sites.items() if each.status == FAILED}

    def with_status(self, *statuses: str) -> list[str]:
        return [site for site, each in self._sites.items() if each.status in statuses]

    @property
    def live(self) -> list[str]:
        """Sites with a process."""
        return [site for site, each in self._sites.items() if each.live]

    def change(self, site: str, status: str, reason: str = "", *, exit_code: int | None = None, how: str = "") -> None:
        self._sites[site] = SiteStatus(status=status, reason=reason, exit_code=exit_code, how=how)

    def hear(self, report: SiteReport) -> bool:
        """What a site tells; False: it is known already."""
        told = SiteStatus(status=report.status, reason=report.reason, exit_code=report.exit_code, how=report.how)
        if self._sites[report.site] == told:
            return False
        self._sites[report.site] = told
        return True
