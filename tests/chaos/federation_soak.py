"""A whole run of FedAvg while its server, its CJs and their agents are killed, and connections are cut."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Final

import redis
from redflare_broker.config.retention import RetentionPolicy
from redflare_broker.embedded.server import EmbeddedServer

from tests.chaos.federation_plan import SERVER, FederationPlan, plan, slots
from tests.support.federation.processes import COMPLETED, Federation
from tests.support.process.child import Child
from tests.support.redis_server.proxy import proxy

#: Seconds without a result after which the run counts as stuck.
PATIENCE: Final = 30.0
#: Elements of the model, too large for an entry.
SIZE: Final = 30_000
_POLICY: Final = RetentionPolicy(retention=60.0, settled_retention=60.0, result_keep=60.0)
_SAFE: Final = {"appendfsync": "always"}


@dataclass(slots=True, kw_only=True)
class FederationSoakOutcome:
    """Counts of one run; ``broken`` is empty when all promises held."""

    rounds: int
    injected: Counter[str] = field(default_factory=Counter)
    trainings: int = 0
    trained_again: int = 0
    seconds: float = 0.0
    broken: list[str] = field(default_factory=list)

    def table(self) -> str:
        """The counts as text."""
        rows: list[tuple[str, Any]] = [("rounds", self.rounds), ("injected", self.injected.total())]
        rows += [(f"  {kind}", count) for kind, count in sorted(self.injected.items())]
        rows += [
            ("trainings", self.trainings),
            ("  again, because the trainer had died", self.trained_again),
            ("seconds", f"{self.seconds:.1f}"),
            ("promises broken", len(self.broken)),
        ]
        lines = [f"{name:<46}{value:>10}" for name, value in rows]
        return "\n".join([*lines, *(f"BROKEN: {words}" for words in self.broken)])


class FederationSoak:
    """One run: its faults follow from ``seed``.

    Args:
        folder: for the server's data and the logs of the processes.
        report: called with each line of progress.
    """

    def __init__(
        self,
        folder: Path,
        *,
        seed: int,
        rounds: int,
        deaths: int,
        cuts: int,
        sites: int = 4,
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.outcome = FederationSoakOutcome(rounds=rounds)
        self._sites = [f"site-{number}" for number in range(1, sites + 1)]
        self._plan: FederationPlan = plan(seed, self._sites, deaths, cuts, rounds * sites)
        self._options = {"min_clients": sites, "num_rounds": rounds, "wait_time_after_min_received": 0}
        self._report = report
        self._folder = folder
        self._slots: dict[str, Child] = {}
        self._results = 0
        self._cut_until = 0.0

    def run(self) -> FederationSoakOutcome:
        """Run twice, the second time with all faults, and check the promises."""
        began = time.monotonic()
        with ExitStack() as stack:
            server = stack.enter_context(EmbeddedServer(self._folder / "server", extra=_SAFE))
            client = stack.enter_context(redis.Redis.from_url(server.url))
            self._cable = stack.enter_context(proxy(server.url))
            expected = self._undisturbed(server.url, client)
            self._federation = stack.enter_context(Federation(server.url, self._folder, client, policy=_POLICY))
            if self._disturbed():
                self._check(expected)
        self.outcome.seconds = time.monotonic() - began
        return self.outcome

    def _undisturbed(self, url: str, client: redis.Redis) -> str:
        with Federation(url, self._folder, client, "undisturbed", policy=_POLICY) as federation:
            for site in self._sites:
                federation.trainer(site)
                federation.cj(site)
            return federation.model_of(federation.server(options=self._options, size=SIZE), self.outcome.rounds)

    def _disturbed(self) -> bool:
        """Run until the server reports its outcome; False: it got stuck."""
        for slot in slots(self._sites):
            self._start(slot)
        progress, seen = time.monotonic(), -1
        while not self._slots[SERVER].received("outcome"):
            pause = self._cut_until - time.monotonic() if self._cut_until else 1.0
            wait([child.connection for child in self._slots.values()], max(pause, 0))
            self._reconcile()
            if self._results > seen:
                progress, seen = time.monotonic(), self._results
            if time.monotonic() - progress > PATIENCE:
                logs = "\n".join(f"-- {slot}\n{child.log_tail()}" for slot, child in self._slots.items())
                self.outcome.broken.append(f"no result for {PATIENCE:g} s, after {self._results}:\n{logs}")
                return False
        self._cable.pass_through()
        return True

    def _reconcile(self) -> None:
        for slot, child in list(self._slots.items()):
            child.received("")
            if not child.alive:
                self.outcome.injected[f"death of a {slot.partition(' ')[0]}"] += 1
                self._report(f"after {self._results} results: {slot} has died")
                self._start(slot)
        self._results = sum(len(child.received("taken")) for child in self._federation.servers)
        for moment in [moment for moment in self._plan.cuts if moment <= self._results]:
            self._report(f"after {self._results} results: the sites' cables are cut")
            self.outcome.injected["cut"] += 1
            self._cable.drop()
            self._cut_until = time.monotonic() + self._plan.cuts.pop(moment)
        if self._cut_until and time.monotonic() > self._cut_until:
            self._cable.pass_through()
            self._cut_until = 0.0

    def _start(self, slot: str) -> None:
        deaths = self._plan.deaths[slot]
        args: dict[str, Any] = {"die_at": deaths.pop(0) if deaths else None}
        kind, _, site = slot.partition(" of ")
        if kind == SERVER:
            self._slots[slot] = self._federation.server(options=self._options, size=SIZE, **args)
        elif kind == "cj":
            self._slots[slot] = self._federation.cj(site, url=self._cable.url, **args)
        else:
            self._slots[slot] = self._federation.trainer(site, url=self._cable.url, **args)

    # -- checks --------------------------------------------------------------------------------------------------------

    def _check(self, expected: str) -> None:
        (status, reason) = self._slots[SERVER].receive("outcome")
        if status != COMPLETED:
            self.outcome.broken.append(f"the run ended with {status}: {reason}")
            return
        if self._slots[SERVER].receive("model")[0] != expected:
            self.outcome.broken.append("the model differs from that of an undisturbed run")
        for site in self._sites:
            self._check_trainings(site)
        for slot, task_ids in self._federation.taken().items():
            if len(task_ids) > 1:
                self.outcome.broken.append(f"results of {slot} came for several client tasks: {task_ids}")
        for key in self._federation.own_keys():
            if self._federation.client.pttl(key) == -1:
                self.outcome.broken.append(f"{key} has no TTL")

    def _check_trainings(self, site: str) -> None:
        """Check that a round is trained again only where the trainer that had it has died."""
        by_round: dict[int, list[tuple[Child, str]]] = {}
        for child in self._federation.trainers[site]:
            for number, task_id in child.received("training"):
                by_round.setdefault(number, []).append((child, task_id))
        for number in range(self.outcome.rounds):
            trained = by_round.get(number, [])
            self.outcome.trainings += len(trained)
            self.outcome.trained_again += len(trained) - 1
            where = f"round {number} of {site}"
            if not trained:
                self.outcome.broken.append(f"{where} was never trained")
            if len({task_id for _, task_id in trained}) > 1:
                self.outcome.broken.append(f"{where} was handed out as several client tasks: {trained}")
            for child, _ in trained[:-1]:
                if child.alive or (number, True) in child.received("submitted"):
                    self.outcome.broken.append(f"{where} was trained again, though its trainer {child} had not died")
