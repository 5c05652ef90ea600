"""Why a job's task is not done, in plain words: what the ledger, the roll and the inbox say together.

Pure. The rules are those of the server's task managers, told from the records that they leave in Redis. What only the
server's memory knows (a callback that takes long, a result that its callback did not count) cannot be told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from redflare_broker.util import humanize

from .job_view import ClientTaskView, JobTask, JobView, SiteView

#: Sites that are named one by one.
_NAMED: Final = 3


def why_not_done(task: JobTask, job: JobView) -> str:
    """Why a standing task is not done."""
    case = _TaskContext(task, job, {site.name: site for site in job.sites})
    tell = _TELL.get(task.kind)
    said = tell(case) if tell else f"it is of a kind that is not known here: {task.kind!r:.80}"
    if task.blob and task.stored < task.blob_bytes:
        said += "; its data is not in Redis any more and is stored anew when a site misses it"
    return said if job.server.connected else f"nobody serves the job, the server {job.server.absence}; {said}"


def why_job_waits(job: JobView) -> str:
    """What a whole job waits for; its tasks must know what they wait for already."""
    if not job.runs:
        reason = job.reason.removeprefix(job.status).removeprefix(": ")
        return f"{job.status} {humanize.age(job.age)} ago" + (f": {reason}" if reason else "")
    if not job.server.connected:
        last = f"the last one {job.server.absence}" if job.server.instance else "there has never been one"
        return f"waits for a server: {last}"
    if not job.status:
        return "its server is there and has not begun yet"
    if not job.connected:
        return "waits for sites: " + (f"none of {len(job.sites)} is connected" if job.sites else "none has joined")
    if not job.tasks:
        return "no task stands, its controller is at work"
    more = len(job.tasks) - 1
    rest = f"; and {more} more task{'s' if more > 1 else ''}" if more else ""
    return f"{job.tasks[0].name} {job.tasks[0].waiting}{rest}"


@dataclass(frozen=True, slots=True)
class _TaskContext:
    task: JobTask
    job: JobView
    sites: Mapping[str, SiteView]

    def option(self, name: str) -> float:
        value = self.task.options.get(name)
        return value if isinstance(value, int | float) else 0

    def since(self, moment: int) -> float:
        return max(0, self.task.now - moment) / 1000

    def holder(self, share: ClientTaskView) -> tuple[str, str]:
        """A site that has the task, and what is to be said of it."""
        site = self.sites.get(share.site)
        if site and (brought := site.brings.get(share.id)):
            return share.site, f"brought its result {humanize.age(self.since(brought))} ago, the server has it in hand"
        often = f" (sent {share.count} times)" if share.count > 1 else ""
        said = f"has had it for {humanize.age(share.age)}{often}" if share.sent else "is just getting it"
        if site is None:
            return share.site, f"{said} and is not on the roll"
        return share.site, " and ".join(filter(None, [said, site.attendance.absence]))

    def absentee(self, name: str) -> tuple[str, str]:
        """A site that has not got the task, and why."""
        site = self.sites.get(name)
        if site is None:
            return name, "has not joined"
        if not site.attendance.connected:
            return name, site.attendance.absence
        for root, other, share in site.has:
            if root != self.task.root_id:
                return name, f"has {other!r} to do, for {humanize.age(share.age)}"
        if site.asks_since:
            return name, f"has asked for a task {humanize.age(self.since(site.asks_since))} ago and has not got it yet"
        return name, "has not asked for it"

    def candidates(self) -> list[str]:
        """Who may still get it: the targets, or without any those who have joined and have not left."""
        had = {share.site for share in self.task.client_tasks}
        if self.task.targets is not None:
            return [name for name in dict.fromkeys(self.task.targets) if name not in had]
        return [site.name for site in self.job.sites if site.name not in had and site.attendance.state != "left"]


def _broadcast(case: _TaskContext) -> str:
    task, least, wait = case.task, int(case.option("min_responses")), case.option("wait_time_after_min_received")
    have = sorted(share.received for share in task.answers)
    missing = [case.holder(share) for share in task.holders] + [case.absentee(name) for name in case.candidates()]
    if not task.client_tasks:
        return f"waits for {'anybody' if task.targets is None else 'its targets'} to ask" + _behind(missing)
    if not least:
        everybody = [case.holder(share) for share in task.holders]
        everybody += [case.absentee(name) for name in task.not_asked]
        return f"waits for {_names(everybody)}" if everybody else "everybody has answered, it is about to end"
    if len(have) < least:
        more = f"waits for {least - len(have)} more of at least {least} results"
        return more + (_behind(missing) or ": no other site has joined")
    enough = f"has {len(have)} of at least {least} results"
    if not missing:
        return f"{enough} and is about to end"
    left = wait - case.since(have[least - 1])
    if left > 0:
        return f"{enough} and waits {humanize.age(left)} longer for more" + _behind(missing)
    return f"{enough}, and ends now unless some of them do not count" + _behind(missing)


def _forever(case: _TaskContext) -> str:
    busy = [case.holder(share) for share in case.task.holders]
    return "goes to whoever asks, until it is cancelled or times out" + _behind(busy)


def _send(case: _TaskContext) -> str:
    task, step = case.task, case.option("task_assignment_timeout")
    if task.holders:
        return f"waits for {_names([case.holder(share) for share in task.holders])}"
    if task.answers:
        return "has its answer and is about to end"
    if task.targets is None:
        return "waits for anybody to ask" + _behind([case.absentee(name) for name in case.candidates()])
    if task.options.get("send_order") != "sequential":
        return "waits for one of its targets to ask" + _behind([case.absentee(name) for name in task.targets])
    return _window(case, task.targets, case.since(task.scheduled), step)


def _relay(case: _TaskContext) -> str:
    task, patience = case.task, case.option("task_result_timeout")
    last = task.client_tasks[-1] if task.client_tasks else None
    in_order = task.options.get("send_order") == "sequential"
    following = _following(task) if in_order else _still_to_come(task)
    if last is not None and not last.received and not (patience and last.age >= patience):
        said = f"waits for {_names([case.holder(last)])}"
        if patience:
            said += f"; is passed on in {humanize.age(patience - last.age)} unless it answers"
        return said + (f"; next in the relay is {following[0]}" if following and in_order else "")
    if not following:
        if task.targets:
            return "everybody has had it, it is about to end"
        return "waits for anybody to ask" + _behind([case.absentee(name) for name in case.candidates()])
    if not in_order:
        return f"waits for {_names([case.absentee(name) for name in following])}"
    opened = task.scheduled if last is None else last.received or last.sent + round(patience * 1000)
    return "next in the relay: " + _window(case, following, case.since(opened), case.option("task_assignment_timeout"))


def _window(case: _TaskContext, names: Sequence[str], open_for: float, step: float) -> str:
    """Who may have the task now, one after the other, and when the next may."""
    opened = 1 + int(open_for // step) if step else 1
    said = f"waits for {_names([case.absentee(name) for name in names[:opened]])}"
    if step and opened < len(names):
        said += f"; {names[opened]} may have it too in {humanize.age(opened * step - open_for)}"
    return said


def _following(task: JobTask) -> list[str]:
    """Targets behind the one that got the task last, each sending being the next place of its name."""
    targets, position = list(task.targets or ()), 0
    for share in task.client_tasks:
        if share.site in targets[position:]:
            position = targets.index(share.site, position) + 1
    return targets[position:]


def _still_to_come(task: JobTask) -> list[str]:
    """Targets that have not had it as often as they are named."""
    left = list(task.targets or ())
    for share in task.answers:
        if share.site in left:
            left.remove(share.site)
    return list(dict.fromkeys(left))


def _names(said: Sequence[tuple[str, str]]) -> str:
    """``site-3, which has had it for 12 s``; of several ``2 sites: site-3 has ...; site-4 has ...``."""
    if len(said) == 1:
        return f"{said[0][0]}, which {said[0][1]}"
    return f"{len(said)} sites" + _behind(said)


def _behind(said: Iterable[tuple[str, str]]) -> str:
    """What is said of each, behind a colon; "" for none."""
    clauses = [" ".join(each) for each in said]
    if not clauses:
        return ""
    rest = len(clauses) - _NAMED
    return ": " + "; ".join(clauses[:_NAMED]) + (f"; and {rest} more" if rest > 0 else "")


_TELL: Final[dict[str, Callable[[_TaskContext], str]]] = {
    "broadcast": _broadcast,
    "broadcast_forever": _forever,
    "send": _send,
    "relay": _relay,
}
