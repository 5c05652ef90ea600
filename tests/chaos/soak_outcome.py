"""Counts of a soak, and the promises that were broken."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True, kw_only=True)
class Execution:
    """One take of a task by an agent."""

    #: "<pid>:<attempt>", which signs the result
    by: str
    attempt: int
    #: the fault that hit the agent afterwards, for which the task had to be executed again; "" when there was none
    fault: str = ""


@dataclass(slots=True, kw_only=True)
class SoakOutcome:
    """Counts of one run; ``broken`` is empty when all promises held."""

    tasks: int
    injected: Counter[str] = field(default_factory=Counter)
    executions: defaultdict[str, list[Execution]] = field(default_factory=lambda: defaultdict(list))
    #: signatures of the results that a CJ received, by task
    results: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    #: signatures of the results whose submission was reported as accepted, by task
    submitted: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    #: tasks whose abort was requested, and those that were aborted
    abort_requested: set[str] = field(default_factory=set)
    aborted: set[str] = field(default_factory=set)
    #: final status and attempts of each ledger
    ledgers: dict[str, tuple[str, int]] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def check(self, task_ids: list[str]) -> None:
        """Find broken promises."""
        for task_id in task_ids:
            self._check_result(task_id)
            self._check_executions(task_id)

    def _check_result(self, task_id: str) -> None:
        signatures = set(self.results[task_id])
        status = self.ledgers.get(task_id, ("none", 0))[0]
        if task_id in self.aborted:
            if task_id not in self.abort_requested:
                self.broken.append(f"{task_id} was aborted, but no abort was requested")
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

    def _check_executions(self, task_id: str) -> None:
        for execution in self._superseded(task_id):
            if not execution.fault:
                self.broken.append(f"{task_id} was executed again, though no fault hit {execution.by}")

    def _superseded(self, task_id: str) -> list[Execution]:
        """All executions but the last, by attempt; a frozen agent may report its own after its successor."""
        return sorted(self.executions[task_id], key=lambda execution: execution.attempt)[:-1]

    def causes_of_repeats(self) -> Counter[str]:
        """Count the causes of repeated executions."""
        return Counter(
            execution.fault or "no reason" for task_id in self.executions for execution in self._superseded(task_id)
        )

    def table(self) -> str:
        """The counts as text."""
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
            ("executions", sum(map(len, self.executions.values()))),
            ("results received again by a CJ that restarted", duplicates),
            ("executions repeated", self.causes_of_repeats().total()),
        ]
        rows += [(f"  because of: {why}", count) for why, count in sorted(self.causes_of_repeats().items())]
        rows += [("seconds", f"{self.seconds:.1f}"), ("promises broken", len(self.broken))]
        lines = [f"{name:<46}{value:>10}" for name, value in rows]
        return "\n".join([*lines, *(f"BROKEN: {words}" for words in self.broken)])
