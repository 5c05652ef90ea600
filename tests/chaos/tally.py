"""Counts of a soak, and the promises that were broken."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True, kw_only=True)
class Work:
    """A task in an agent's hands."""

    #: "<pid>:<attempt>", which signs the result
    by: str
    attempt: int
    #: what was done to the agent afterwards: why somebody else had to do the work again; "" when nothing was
    hurt: str = ""


@dataclass(slots=True, kw_only=True)
class Tally:
    """Counts of one run; ``broken`` is empty when all promises held."""

    tasks: int
    injected: Counter[str] = field(default_factory=Counter)
    works: defaultdict[str, list[Work]] = field(default_factory=lambda: defaultdict(list))
    #: signatures of the results that a CJ was given, by task
    results: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    #: signatures of the results whose submission was reported as accepted, by task
    submitted: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    #: tasks whose abort was ordered, and those that ended so
    abort_ordered: set[str] = field(default_factory=set)
    aborted: set[str] = field(default_factory=set)
    #: status and attempts of each ledger in the end
    ledgers: dict[str, tuple[str, int]] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def judge(self, task_ids: list[str]) -> None:
        """Find broken promises."""
        for task_id in task_ids:
            self._judge_outcome(task_id)
            self._judge_works(task_id)

    def _judge_outcome(self, task_id: str) -> None:
        signatures = set(self.results[task_id])
        status = self.ledgers.get(task_id, ("none", 0))[0]
        if task_id in self.aborted:
            if task_id not in self.abort_ordered:
                self.broken.append(f"{task_id} was aborted, but nobody ordered it")
            if signatures or status == "ACCEPTED" or self.submitted[task_id]:
                self.broken.append(
                    f"{task_id} was aborted and accepted: {signatures} {self.submitted[task_id]} {status}"
                )
            return
        if not signatures:
            self.broken.append(f"{task_id} is lost: it is {status} and has no result")
        elif status != "ACCEPTED":
            self.broken.append(f"{task_id} has a result, but is {status}")
        if len(signatures) > 1:
            self.broken.append(f"{task_id} has several accepted results: {sorted(signatures)}")
        if set(self.submitted[task_id]) - signatures:
            self.broken.append(f"{task_id}: submission reported as accepted, but lost: {self.submitted[task_id]}")

    def _judge_works(self, task_id: str) -> None:
        for work in self._given_up(task_id):
            if not work.hurt:
                self.broken.append(f"{task_id} was worked on again, though nothing happened to {work.by}")

    def _given_up(self, task_id: str) -> list[Work]:
        """All works but the last; a frozen agent may report its own after its successor."""
        return sorted(self.works[task_id], key=lambda work: work.attempt)[:-1]

    def why_twice(self) -> Counter[str]:
        """Causes of work that was done again."""
        return Counter(work.hurt or "no reason" for task_id in self.works for work in self._given_up(task_id))

    def table(self) -> str:
        """For people."""
        rows: list[tuple[str, Any]] = [("injected", self.injected.total())]
        rows += [(f"  {kind}", count) for kind, count in sorted(self.injected.items())]
        accepted = [task_id for task_id, results in self.results.items() if results]
        duplicates = sum(len(results) - 1 for results in self.results.values() if results)
        rows += [
            ("tasks", self.tasks),
            ("  accepted", len(accepted)),
            ("  aborted", len(self.aborted)),
            ("  lost", self.tasks - len(accepted) - len(self.aborted)),
            ("attempts, by the ledgers", sum(attempts for _, attempts in self.ledgers.values())),
            ("works begun", sum(map(len, self.works.values()))),
            ("results given again to a CJ that restarted", duplicates),
            ("work done twice", self.why_twice().total()),
        ]
        rows += [(f"  because of: {why}", count) for why, count in sorted(self.why_twice().items())]
        rows += [("seconds", f"{self.seconds:.1f}"), ("promises broken", len(self.broken))]
        lines = [f"{name:<46}{value:>10}" for name, value in rows]
        return "\n".join([*lines, *(f"BROKEN: {words}" for words in self.broken)])
