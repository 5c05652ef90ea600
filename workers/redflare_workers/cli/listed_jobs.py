"""Jobs as commands list them: their records in the job store, beside their views since they have begun."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from redflare_broker.inspection.job_view import JobView, job_name
from redflare_broker.job_store.record import JobRecord

from .connection import Target
from .job_display import reason_of
from .job_lookup import is_server_running, redis_now, store_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedJob:
    """One job: its record in the job store of a server, its view since it has begun, or both."""

    server: str
    record: JobRecord | None = None
    view: JobView | None = None

    @property
    def name(self) -> str:
        """Its name for people, with that of its server unless that is "server"."""
        return job_name(f"{self.server}.{self.record.id}") if self.record else self.begun.name

    @property
    def begun(self) -> JobView:
        """Its view; only one that has a record may be without."""
        assert self.view
        return self.view

    @property
    def status(self) -> str:
        return self.record.status if self.record else self.begun.status

    @property
    def is_open(self) -> bool:
        return not self.record.finished if self.record else self.begun.runs

    @property
    def changed(self) -> int:
        """When it came to its status, or ended, in ms of Redis's clock."""
        return self.record.changed if self.record else self.begun.ended

    def details(self, now: int, *, server_is_running: bool) -> str:
        """Say why it waits, what is wrong in it, or how it ended; "" if there is nothing to say."""
        if self.record is None:
            return _trouble(self.begun) if self.begun.runs else self.begun.waiting
        reason = reason_of(self.record, now, server_is_running=server_is_running)
        if not reason and self.view and not self.record.finished:
            reason = _trouble(self.view)
        return " ".join(reason.split())

    def to_json(self) -> dict[str, object]:
        if self.view:
            document = self.view.to_json()
        else:
            assert self.record
            document = {
                "fqcn": f"{self.server}.{self.record.id}",
                "job_id": self.record.id,
                "status": self.record.status,
                "reason": self.record.reason,
                "tasks": [],
                "sites": [],
            }
        return {**document, "record": self.record.to_json() if self.record else None}


def _trouble(view: JobView) -> str:
    """Say what is wrong in a job that runs, and what it waits for."""
    return "; ".join(filter(None, (view.trouble, view.waiting)))


@dataclass(frozen=True, slots=True, kw_only=True)
class JobList:
    """Jobs, the oldest of each server first; those that are in no store come last."""

    jobs: tuple[ListedJob, ...]
    #: the servers among those asked for that have a heartbeat
    running: frozenset[str]
    #: when they were read, in ms of Redis's clock
    now: int

    def details(self, job: ListedJob) -> str:
        return job.details(self.now, server_is_running=job.server in self.running)


def read_jobs(target: Target, servers: Iterable[str], views: Iterable[JobView]) -> JobList:
    """Read the job stores of some servers, and pair their records with the views of the same jobs.

    Jobs that were deleted are left out, and servers, which have views too.
    """
    jobs, rest, running = list[ListedJob](), [view for view in views if "." in view.fqcn], set[str]()
    for server in servers:
        store = store_of(target, server)
        paired = pair(server, store.list(), rest)
        jobs += [job for job in paired if job.record]
        deleted = {f"{server}.{job_id}" for job_id in store.deletions().values()}
        left = [job.begun for job in paired if not job.record]
        rest = [view for view in left if view.runs or view.fqcn not in deleted]
        if is_server_running(target, server):
            running.add(server)
    unknown = [ListedJob(server="", view=view) for view in rest]
    return JobList(jobs=(*jobs, *unknown), running=frozenset(running), now=redis_now(target))


def pair(server: str, records: Iterable[JobRecord], views: Iterable[JobView]) -> list[ListedJob]:
    """Pair the records of a server's store with the views of the same jobs; views without a record come last."""
    left = {view.fqcn: view for view in views}
    jobs = [ListedJob(server=server, record=record, view=left.pop(f"{server}.{record.id}", None)) for record in records]
    return jobs + [ListedJob(server=server, view=view) for view in left.values()]
