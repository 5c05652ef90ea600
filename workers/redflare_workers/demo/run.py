"""One run of the demo: what is started in which order, and that all of it ends, whatever happens."""

from __future__ import annotations

import secrets
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue

from redflare_broker.connection import Server
from redflare_broker.embedded import EmbeddedServer
from redflare_broker.preflight import check
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from redflare_workers.demo.baseline import learning_curve
from redflare_workers.demo.data import Samples, Split, load_split
from redflare_workers.demo.display import Display
from redflare_workers.demo.errors import DemoStopped
from redflare_workers.demo.events import ComparisonBegan, Event, Failed, Finished, Signalled
from redflare_workers.demo.federation import Federation
from redflare_workers.demo.kill_plan import KillPlan
from redflare_workers.demo.model import STEPS, Weights, fingerprint, initial
from redflare_workers.demo.outcome import FEDERATED, POOLED, Curve, Outcome
from redflare_workers.demo.plot import draw
from redflare_workers.demo.processes import AgentProcess
from redflare_workers.demo.site_settings import SiteSettings
from redflare_workers.exchanger import IPCExchanger

PLOT_FILE = "accuracy.png"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What can be chosen."""

    rounds: int
    sites: int
    seed: int
    kill_agents: bool
    url: str | None  #: None: an embedded server, for this run only
    out: Path
    began: float  #: time.monotonic() at the beginning


class Run:
    """A run; ``carry_out`` may be called once.

    Args:
        options: of this run.
        events: what happens, read here only; signals may be in it already.
    """

    def __init__(self, options: Options, events: SimpleQueue[Event]) -> None:
        self._options = options
        self._events = events
        self._stop = threading.Event()
        self._plan = KillPlan([f"site-{n}" for n in range(1, options.sites + 1)]) if options.kill_agents else None
        self._agents: list[AgentProcess] = []
        self._exchangers: dict[str, IPCExchanger] = {}
        self._training: threading.Thread | None = None
        self._outcome: Outcome | None = None

    def carry_out(self, display: Display) -> Outcome:
        """Train, compare, draw.

        Raises:
            DemoStopped: a signal came; everything has been ended.
            DemoError: an agent or a task failed for good.
            RedflareError: the server cannot be used.
        """
        with ExitStack() as ending:
            self._heed_signals()  # so that nothing is started any more
            ending.enter_context(display)
            ending.enter_context(threadpool_limits(1))
            url = self._options.url or ending.enter_context(EmbeddedServer()).url
            _check(url)
            split = load_split(self._options.sites, self._options.seed)
            display.sites(split.sites)
            self._heed_signals()
            scratch = tempfile.TemporaryDirectory(prefix="redflare-demo-", ignore_cleanup_errors=True)
            ending.enter_context(scratch)
            ending.callback(self._end)
            self._begin(split, url, scratch.name)
            self._follow(display)
        assert self._outcome is not None
        return self._outcome

    def _begin(self, split: Split, url: str, scratch: str) -> None:
        """Start the agents' processes, an exchanger for each, and the thread that trains, so this one can watch."""
        agent_id = f"demo-{secrets.token_hex(3)}"  # two demos may share one server
        for index, (site, samples) in enumerate(split.sites.items(), start=1):
            settings = SiteSettings(
                url=url,
                site=site,
                agent_id=agent_id,
                index=index,
                seed=self._options.seed,
                ask_leave=self._plan is not None,
                scratch=scratch,
            )
            self._agents.append(AgentProcess(settings, samples, self._events.put, self._plan))
            self._agents[-1].start()
            self._exchangers[site] = IPCExchanger(
                redis_url=url, site_name=site, agent_id=agent_id, workspace_dir=settings.workspace
            )
            self._exchangers[site].start()
        self._training = threading.Thread(target=self._train, args=(split,), name="demo-training", daemon=True)
        self._training.start()

    def _end(self) -> None:
        """End everything ``_begin`` started, however far it came.

        No agent is started again once it was told to end, so that comes first; the exchangers' end wakes the training
        thread; only then is there nobody left to wait for an agent.
        """
        self._stop.set()
        for agent in self._agents:
            agent.let_end()
        for exchanger in self._exchangers.values():
            exchanger.stop()
        if self._training:
            self._training.join()
        for agent in self._agents:
            agent.stop()

    def _heed_signals(self) -> None:
        while not self._events.empty():
            if isinstance(event := self._events.get(), Signalled):
                raise DemoStopped(event.number)

    def _follow(self, display: Display) -> None:
        """Show what happens until it is over."""
        while True:
            match event := self._events.get():
                case Finished():
                    return
                case Signalled(number=number):
                    raise DemoStopped(number)
                case Failed(error=error):
                    raise error
                case _:
                    display.show(event)

    def _train(self, split: Split) -> None:
        try:
            weights = initial(self._options.seed)
            federation = Federation(self._exchangers, split.held_out, self._events.put)
            model, accuracy = federation.train(weights, self._options.rounds)
            federated = _curve(FEDERATED, split.pooled, accuracy)
            alone = [self._compare(f"{site} alone", n, split, weights) for n, site in enumerate(split.sites, start=1)]
            pooled = self._compare(POOLED, 0, split, weights)
            if not self._stop.is_set():
                self._conclude(split, model, federated, [*alone, pooled])
                self._events.put(Finished())
        except Exception as error:  # the top of this thread; the main thread raises it
            self._events.put(Failed(error=error))

    def _compare(self, name: str, index: int, split: Split, weights: Weights) -> Curve:
        """One training without the federation; index 0 is the one on all data."""
        self._events.put(ComparisonBegan(name=name))
        samples = split.sites[f"site-{index}"] if index else split.pooled
        options = self._options
        curve = learning_curve(
            weights, samples, split.held_out, seed=options.seed, index=index, rounds=options.rounds, stop=self._stop
        )
        return _curve(name, samples, curve)

    def _conclude(self, split: Split, model: Weights, federated: Curve, others: list[Curve]) -> None:
        *alone, pooled = others
        outcome = Outcome(
            seed=self._options.seed,
            rounds=self._options.rounds,
            steps=self._options.rounds * STEPS,
            held_out=len(split.held_out),
            federated=federated,
            alone=alone,
            pooled=pooled,
            sha256=fingerprint(model),
            kills=self._plan.kills if self._plan else 0,
            seconds=0.0,
            plot=str(self._options.out / PLOT_FILE),
        )
        draw(outcome)
        self._outcome = replace(outcome, seconds=round(time.monotonic() - self._options.began, 2))


def _curve(name: str, samples: Samples, accuracy: list[float]) -> Curve:
    return Curve(name=name, images=len(samples), digits=samples.counts(), accuracy=accuracy)


def _check(url: str) -> None:
    """Fail now and clearly, rather than wait for a server that will not do."""
    with Server.connect(url) as server:
        check(server)
