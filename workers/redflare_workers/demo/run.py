"""``DemoRun``: starts the processes of the demo, follows them, and ends all of them, whatever happens."""

from __future__ import annotations

import secrets
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue

from redflare_broker.embedded.server import EmbeddedServer
from redflare_broker.runtime.preflight import check
from redflare_broker.transport.server import Server
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from redflare_workers.util.signals import Signalled
from redflare_workers.workflow.model_store import ModelStore

from .data import Samples, Split, load_split
from .display import Display
from .errors import DemoStopped
from .events import ComparisonBegan, Event, Failed, Finished, Trained
from .kill_plan import KillPlan, ServerKillPlan
from .model import STEPS, Weights, fingerprint, initial, learning_curve
from .outcome import FEDERATED, POOLED, Curve, DemoOutcome, draw
from .settings import SAMPLES_FILE, SERVER, DemoSettings
from .watched_process import AgentProcess, DemoServerProcess, WatchedProcess

PLOT_FILE = "accuracy.png"


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """Options of the command."""

    rounds: int
    sites: int
    seed: int
    kill_agents: bool
    kill_server: bool
    url: str | None  #: None: an embedded server, for this run only
    out: Path
    began: float  #: ``time.monotonic()`` at the start


class DemoRun:
    """A run; ``carry_out`` may be called once. Signals may be among the ``events`` already."""

    def __init__(self, options: DemoOptions, events: SimpleQueue[Event]) -> None:
        self._options = options
        self._events = events
        self._stop = threading.Event()
        self._plan = KillPlan([f"site-{n}" for n in range(1, options.sites + 1)]) if options.kill_agents else None
        self._server_plan = ServerKillPlan() if options.kill_server else None
        self._processes: list[WatchedProcess] = []
        self._server: DemoServerProcess | None = None
        self._comparing: threading.Thread | None = None
        self._outcome: DemoOutcome | None = None

    def carry_out(self, display: Display) -> DemoOutcome:
        """Train, compare, and draw the plot.

        Raises:
            DemoStopped: a signal came; everything has been ended.
            DemoError: an agent or a task failed for good.
            RedflareError: Redis cannot be used.
        """
        with ExitStack() as ending:
            self._check_signals()  # before anything is started
            ending.enter_context(display)
            ending.enter_context(threadpool_limits(1))
            url = self._options.url or ending.enter_context(EmbeddedServer()).url
            with Server.connect(url) as server:
                check(server)  # raises now, rather than wait for a Redis that cannot be used
            split = load_split(self._options.sites, self._options.seed)
            display.sites(split.sites)
            self._check_signals()
            scratch = tempfile.TemporaryDirectory(prefix="redflare-demo-", ignore_cleanup_errors=True)
            ending.enter_context(scratch)
            ending.callback(self._end)
            store = self._begin(split, url, scratch.name)
            self._follow(display, split, store)
        assert self._outcome is not None
        return self._outcome

    def _begin(self, split: Split, url: str, scratch: str) -> ModelStore:
        """Start all processes; return the store that the server puts the model into."""
        options = self._options
        settings = DemoSettings(
            url=url,
            job_id=f"demo-{secrets.token_hex(3)}",  # two demos may share one server
            sites=list(split.sites),
            rounds=options.rounds,
            seed=options.seed,
            ask_leave=options.kill_agents or options.kill_server,
            scratch=scratch,
        )
        settings.save()
        for name, samples in {SERVER: split.held_out, **split.sites}.items():
            samples.save(settings.folder(name) / SAMPLES_FILE)
        logs, emit = Path(scratch), self._events.put
        self._server = DemoServerProcess("the server", settings.command("server"), logs / "server.log", emit)
        client_jobs = WatchedProcess("the client jobs", settings.command("client_jobs"), logs / "client-jobs.log", emit)
        agents = [
            AgentProcess(
                site, settings.command("site_agent", site), logs / f"{site}.log", emit, self._plan, self._on_halfway
            )
            for site in split.sites
        ]
        for process in (self._server, client_jobs, *agents):
            self._processes.append(process)
            process.start()
        return ModelStore(settings.folder(SERVER))

    def _on_halfway(self, round_number: int) -> None:
        """Kill the server if this round has its turn; called when an agent is half-way, from its watching thread."""
        if self._server_plan and self._server and self._server_plan.strikes(round_number):
            self._server.kill()

    def _end(self) -> None:
        """End everything that ``_begin`` has started.

        All get to know first: none is started again then, and none waits for another that is gone.
        """
        self._stop.set()
        for process in self._processes:
            process.let_end()
        if self._comparing:
            self._comparing.join()
        for process in self._processes:
            process.stop()

    def _check_signals(self) -> None:
        while not self._events.empty():
            if isinstance(event := self._events.get(), Signalled):
                raise DemoStopped(event.number)

    def _follow(self, display: Display, split: Split, store: ModelStore) -> None:
        """Show events until all trainings are done."""
        while True:
            match event := self._events.get():
                case Finished():
                    return
                case Signalled(number=number):
                    raise DemoStopped(number)
                case Failed(error=error):
                    raise error
                case Trained():
                    self._comparing = threading.Thread(
                        target=self._compare_all, args=(split, store), name="demo-comparison", daemon=True
                    )
                    self._comparing.start()
                case _:
                    display.show(event)

    def _compare_all(self, split: Split, store: ModelStore) -> None:
        """Train without the federation, in another thread than the one that shows events; then conclude."""
        try:
            model, notes = store.load()
            federated = _curve(FEDERATED, split.pooled, [done["metric"] for done in notes["history"]])
            weights = initial(self._options.seed)
            alone = [self._compare(f"{site} alone", n, split, weights) for n, site in enumerate(split.sites, start=1)]
            pooled = self._compare(POOLED, 0, split, weights)
            if not self._stop.is_set():
                self._conclude(split, model, federated, [*alone, pooled])
                self._events.put(Finished())
        except Exception as error:  # the top of this thread; the main thread raises it
            self._events.put(Failed(error=error))

    def _compare(self, name: str, index: int, split: Split, weights: Weights) -> Curve:
        """Train once without the federation; index 0 is the training on all data."""
        self._events.put(ComparisonBegan(name=name))
        samples = split.sites[f"site-{index}"] if index else split.pooled
        options = self._options
        curve = learning_curve(
            weights, samples, split.held_out, seed=options.seed, index=index, rounds=options.rounds, stop=self._stop
        )
        return _curve(name, samples, curve)

    def _conclude(self, split: Split, model: Weights, federated: Curve, others: list[Curve]) -> None:
        *alone, pooled = others
        outcome = DemoOutcome(
            seed=self._options.seed,
            rounds=self._options.rounds,
            steps=self._options.rounds * STEPS,
            held_out=len(split.held_out),
            federated=federated,
            alone=alone,
            pooled=pooled,
            sha256=fingerprint(model),
            kills=self._plan.kills if self._plan else 0,
            server_kills=self._server_plan.kills if self._server_plan else 0,
            seconds=0.0,
            plot=str(self._options.out / PLOT_FILE),
        )
        draw(outcome)
        self._outcome = replace(outcome, seconds=round(time.monotonic() - self._options.began, 2))


def _curve(name: str, samples: Samples, accuracy: list[float]) -> Curve:
    return Curve(name=name, images=len(samples), digits=samples.counts(), accuracy=accuracy)
