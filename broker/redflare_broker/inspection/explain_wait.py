"""Explain why a job or one of its tasks is not done, from the task's record, the job's members and the server's inbox.

Pure. The rules are those of the server's task managers, applied to the records that they leave in Redis. What only the
server's memory holds (a callback that takes long, a result that its callback rejected) is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from redflare_broker.util import humanize

from .job_view import ClientTaskView, JobTaskView, JobView, SiteView

#: Sites that are named before the rest is counted.
_NAMED: Final = 3


def why_not_done(task: JobTaskView, job: JobView) -> str:
    """Explain why an open task is not done."""
    explain = _EXPLAIN.get(task.record.kind)
    context = _TaskContext(task, job, {site.name: site for site in job.sites})
    reason = explain(context) if explain else f"unknown kind of task: {task.record.kind!r:.80}"
    if task.blob and task.stored < task.blob_bytes:
        reason += "; its data is no longer in Redis, the server stores it again when a site misses it"
    return reason if job.server.connected else f"no server runs the job ({job.server.absence}); {reason}"


def why_job_waits(job: JobView) -> str:
    """Explain what a whole job is waiting for, from what its tasks are waiting for."""
    if not job.runs:
        reason = job.reason.removeprefix(job.status).removeprefix(": ")
        return f"{job.status} {humanize.age(job.age)} ago" + (f": {reason}" if reason else "")
    if not job.server.connected:
        last = f"last one: {job.server.absence}" if job.server.instance else "none seen yet"
        return f"waiting for a server ({last})"
    if not job.status:
        return "the server is connected and has not started the job yet"
    return _what_it_waits_for(job)


def _what_it_waits_for(job: JobView) -> str:
    """Return what a job waits for whose server runs."""
    if job.awaited is not None:
        return job.awaited.describe(job.now)
    if not job.connected:
        return "waiting for sites: " + (f"0 of {len(job.sites)} connected" if job.sites else "none has joined")
    if not job.tasks:
        return "no open task, the controller is working"
    more = len(job.tasks) - 1
    rest = f"; {more} more open task{'s' if more > 1 else ''}" if more else ""
    return f"{job.tasks[0].record.name}: {job.tasks[0].waiting}{rest}"


@dataclass(frozen=True, slots=True)
class _TaskContext:
    """A task with its job, and the job's sites by name; describes sites as "site-1 (sent 12 s ago)"."""

    task: JobTaskView
    job: JobView
    sites: Mapping[str, SiteView]

    def option(self, name: str) -> float:
        value = self.task.record.options.get(name)
        return value if isinstance(value, int | float) else 0

    def since(self, ms: int) -> float:
        return max(0, self.task.now - ms) / 1000

    def pending(self) -> list[str]:
        """Sites that have the task and have not answered."""
        return [self.holder(each) for each in self.task.pending]

    def holder(self, client_task: ClientTaskView) -> str:
        """Describe a site that has the task, and how far it is."""
        name, site, count = client_task.site, self.sites.get(client_task.site), client_task.record.count
        if site and (submitted := site.submitted.get(client_task.record.id)):
            return f"{name} (submitted its result {humanize.age(self.since(submitted))} ago, the server is handling it)"
        last = f"{humanize.age(client_task.age)} ago"
        sent = (f"sent {count} times, last {last}" if count > 1 else f"sent {last}") if client_task.sent else "sending"
        absence = site.presence.absence if site else "not a member of the job"
        at_agent = site.at_agent.get(client_task.record.id) if site and not absence else None
        agent = at_agent.waiting if at_agent and at_agent.trouble else ""
        no_room = site.no_room if site else None
        fits = f"its result of {humanize.size(no_room.nbytes)} does not fit into Redis" if no_room else ""
        return f"{name} ({'; '.join(filter(None, [sent, absence, agent, fits]))})"

    def absentee(self, name: str) -> str:
        """Describe a site that the task has not been sent to, and why."""
        return f"{name} ({self._why_not_sent(name)})"

    def _why_not_sent(self, name: str) -> str:
        site = self.sites.get(name)
        if site is None:
            left = self._awaited_for(name)
            if left is None:
                return "has not joined"
            return f"has not joined; awaited {humanize.age(left)} longer" if left > 0 else "has not joined, not awaited"
        if not site.presence.connected:
            return site.presence.absence
        for root, other, client_task in site.working_on:
            if root != self.task.record.root_id:
                return f"working on {other!r} for {humanize.age(client_task.age)}"
        if site.requested:
            return f"requested a task {humanize.age(self.since(site.requested))} ago, not sent yet"
        return "has not requested it"

    def in_turn(self, names: Iterable[str]) -> list[str]:
        """Return the names of targets whose turn is waited for; all, if it is for none of them."""
        some = list(names)
        return [name for name in some if (left := self._awaited_for(name)) is None or left > 0] or some

    def _awaited_for(self, name: str) -> float | None:
        """For how many seconds more a target is awaited that has not joined; None: it has, or for ever."""
        grace = self.option("absent_after")
        return None if name in self.sites or not grace else grace - self.since(self.task.scheduled)

    def candidates(self) -> list[str]:
        """Sites that may still get it: the targets, or without targets all members that have not left."""
        had = {each.site for each in self.task.client_tasks}
        if self.task.record.targets is not None:
            return [name for name in dict.fromkeys(self.task.record.targets) if name not in had]
        return [site.name for site in self.job.sites if site.name not in had and site.presence.state != "left"]

    def not_sent(self) -> list[str]:
        return [self.absentee(name) for name in self.candidates()]


def _broadcast(context: _TaskContext) -> str:
    task, least = context.task, int(context.option("min_responses"))
    received = sorted(each.received for each in task.answered)
    missing = context.pending() + context.not_sent()
    if not task.client_tasks:
        whom = "any site" if task.record.targets is None else "its targets"
        return f"waiting for {whom} to request it" + _details(missing)
    if not least:
        everybody = context.pending() + [context.absentee(name) for name in task.not_sent]
        return f"waiting for {_names(everybody)}" if everybody else "all sites have answered, about to end"
    if len(received) < least:
        more = f"waiting for {least - len(received)} more of at least {least} results"
        return more + (_details(missing) or ": no other site has joined")
    enough = f"has {len(received)} of at least {least} results"
    if not missing:
        return f"{enough}, about to end"
    left = context.option("wait_time_after_min_received") - context.since(received[least - 1])
    if left > 0:
        return f"{enough}, waiting {humanize.age(left)} longer for more" + _details(missing)
    return f"{enough}, about to end unless some are not valid" + _details(missing)


def _broadcast_forever(context: _TaskContext) -> str:
    return "sent to any site that requests it, until it is cancelled or times out" + _details(context.pending())


def _send(context: _TaskContext) -> str:
    task, step = context.task, context.option("task_assignment_timeout")
    if task.pending:
        return f"waiting for {_names(context.pending())}"
    if task.answered:
        return "has its result, about to end"
    if task.record.targets is None:
        return "waiting for any site to request it" + _details(context.not_sent())
    if task.record.options.get("send_order") != "sequential":
        absent = [context.absentee(name) for name in task.record.targets]
        return "waiting for one of its targets to request it" + _details(absent)
    return _window(context, context.in_turn(task.record.targets), context.since(task.scheduled), step)


def _relay(context: _TaskContext) -> str:
    task, patience = context.task, context.option("task_result_timeout")
    last = task.client_tasks[-1] if task.client_tasks else None
    in_order = task.record.options.get("send_order") == "sequential"
    following = context.in_turn(_following(task) if in_order else _still_to_come(task))
    if last is not None and not last.received and not (patience and last.age >= patience):
        reason = f"waiting for {context.holder(last)}"
        if patience:
            reason += f"; passed on in {humanize.age(patience - last.age)} unless it answers"
        return reason + (f"; next in the relay: {following[0]}" if following and in_order else "")
    if not following:
        if task.record.targets:
            return "all targets have had it, about to end"
        return "waiting for any site to request it" + _details(context.not_sent())
    if not in_order:
        return f"waiting for {_names([context.absentee(name) for name in following])}"
    opened = task.scheduled if last is None else last.received or last.sent + round(patience * 1000)
    step = context.option("task_assignment_timeout")
    return "next in the relay: " + _window(context, following, context.since(opened), step)


def _window(context: _TaskContext, names: Sequence[str], open_for: float, step: float) -> str:
    """Name the sites that may request the task now, in their order, and when the next one may."""
    opened = 1 + int(open_for // step) if step else 1
    reason = f"waiting for {_names([context.absentee(name) for name in names[:opened]])}"
    if step and opened < len(names):
        reason += f"; {names[opened]} may request it too in {humanize.age(opened * step - open_for)}"
    return reason


def _following(task: JobTaskView) -> list[str]:
    """Targets after the one that got the task last; each sending is the next occurrence of its name."""
    targets, position = list(task.record.targets or ()), 0
    for each in task.client_tasks:
        if each.site in targets[position:]:
            position = targets.index(each.site, position) + 1
    return targets[position:]


def _still_to_come(task: JobTaskView) -> list[str]:
    """Targets that have not answered as often as they are named."""
    left = list(task.record.targets or ())
    for each in task.answered:
        if each.site in left:
            left.remove(each.site)
    return list(dict.fromkeys(left))


def _names(sites: Sequence[str]) -> str:
    """``site-3 (sent 12 s ago)``; of several ``2 sites: site-3 (...), site-4 (...)``."""
    return sites[0] if len(sites) == 1 else f"{len(sites)} sites" + _details(sites)


def _details(sites: Iterable[str]) -> str:
    """Return the sites after a colon; "" without any."""
    named = list(sites)
    return f": {humanize.first(named, _NAMED)}" if named else ""


_EXPLAIN: Final[dict[str, Callable[[_TaskContext], str]]] = {
    "broadcast": _broadcast,
    "broadcast_forever": _broadcast_forever,
    "send": _send,
    "relay": _relay,
}
