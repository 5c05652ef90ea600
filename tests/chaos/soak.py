"""Many tasks over several agents while everything around them is killed, frozen, cut and restarted."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing.connection import wait
from pathlib import Path
from typing import Final

import redis
from redflare_broker.config.retention import RetentionPolicy
from redflare_broker.embedded.server import EmbeddedServer
from redflare_broker.keys import Keys

from tests.chaos.plan import Injection, plan
from tests.chaos.soak_link import SoakLink
from tests.chaos.soak_outcome import SoakOutcome
from tests.support.link.processes import quick_settings
from tests.support.redis_server.proxy import proxy

#: Seconds without the end of any task after which the run counts as stuck.
PATIENCE: Final = 40.0
#: "everysec", the usual setting, may lose the writes of the last second before a crash, which breaks no promise.
SAFE: Final = {"appendfsync": "always"}
_SETTINGS: Final = quick_settings(
    "soak", policy=RetentionPolicy(retention=3600.0, settled_retention=3600.0, settled_tasks=100_000)
)


class Soak:
    """One run: the injections follow from ``seed``; the exact moments depend on the machine.

    Args:
        folder: for the server's data and the logs of the processes.
        report: called with each line of progress.
    """

    def __init__(
        self,
        folder: Path,
        *,
        seed: int,
        tasks: int,
        injections: int,
        links: int = 8,
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.plan = plan(seed, tasks, links, injections)
        self.outcome = SoakOutcome(tasks=tasks)
        self._report = report
        self._ends: list[tuple[float, Callable[[], None]]] = []
        self._stack = ExitStack()
        self._server = self._stack.enter_context(EmbeddedServer(folder / "server", extra=SAFE))
        self._cable = self._stack.enter_context(proxy(self._server.url))
        task_ids = [f"t{number}" for number in range(tasks)]
        urls = (self._cable.url, self._server.url)
        self._links = [
            SoakLink(number, task_ids[number::links], urls, _SETTINGS, folder, self.outcome) for number in range(links)
        ]
        for link in self._links:
            self._stack.callback(link.close)

    def run(self) -> SoakOutcome:
        """Run all tasks under all injections, and check the promises."""
        began = time.monotonic()
        with self._stack:
            self._run()
            self._end_all()
            self._read_ledgers()
        self.outcome.seconds = time.monotonic() - began
        self.outcome.check([task_id for link in self._links for task_id in link.task_ids])
        return self.outcome

    def _run(self) -> None:
        pending = list(self.plan)
        progress = time.monotonic()
        while not all(link.finished for link in self._links):
            self._wait()
            if sum(link.drain(child) for link in self._links for child in link.children):
                progress = time.monotonic()
            outcomes = sum(link.done for link in self._links)
            while pending and pending[0].at <= outcomes:
                self._inject(pending.pop(0))
            self._end_due()
            if time.monotonic() - progress > PATIENCE:
                stuck = [link.name for link in self._links if not link.finished]
                self.outcome.broken.append(f"nothing has ended for {PATIENCE:g} s; stuck: {stuck}")
                return

    def _wait(self) -> None:
        """Wait for a message, or for the end of an injection that lasts."""
        due = min((moment for moment, _ in self._ends), default=time.monotonic() + 1)
        connections = [child.connection for link in self._links for child in link.children]
        wait(connections, max(due - time.monotonic(), 0))

    # -- injections ----------------------------------------------------------------------------------------------------

    def _inject(self, injection: Injection) -> None:
        self._report(str(injection))
        self.outcome.injected[injection.kind] += 1
        link = self._links[injection.link]
        act: dict[str, Callable[[], Callable[[], None] | None]] = {
            "kill agent": link.kill_agent,
            "stop agent": link.stop_agent,
            "replace agent": link.replace_agent,
            "freeze agent": link.freeze_agent,
            "kill CJ": link.kill_cj,
            "replace CJ": link.replace_cj,
            "freeze CJ": link.freeze_cj,
            "abort task": link.abort_task,
            "crash server": self._crash_server,
            "freeze server": self._freeze_server,
            "kill connections": self._kill_connections,
            "cut cable": self._cut_cable,
            "swallow": self._swallow,
        }
        if end := act[injection.kind]():
            self._ends.append((time.monotonic() + injection.seconds, end))

    def _end_due(self) -> None:
        now = time.monotonic()
        due = [end for moment, end in self._ends if moment <= now]
        self._ends = [(moment, end) for moment, end in self._ends if moment > now]
        for end in due:
            end()

    def _end_all(self) -> None:
        for _, end in self._ends:
            end()

    def _crash_server(self) -> None:
        self._server.kill()
        self._server.stop()
        self._server.start()

    def _freeze_server(self) -> Callable[[], None]:
        os.kill(self._server.pid, signal.SIGSTOP)
        return self._thaw_server

    def _thaw_server(self) -> None:
        os.kill(self._server.pid, signal.SIGCONT)

    def _kill_connections(self) -> None:
        self._thaw_server()
        with redis.Redis.from_url(self._server.url) as client:
            for kind in ("normal", "pubsub"):
                client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")

    def _cut_cable(self) -> Callable[[], None]:
        self._cable.drop()
        return self._cable.pass_through

    def _swallow(self) -> Callable[[], None]:
        self._cable.half_open()
        return self._cable.pass_through

    # -- checks --------------------------------------------------------------------------------------------------------

    def _read_ledgers(self) -> None:
        with redis.Redis.from_url(self._server.url, decode_responses=True) as client:
            for number, link in enumerate(self._links):
                keys = Keys(_SETTINGS.namespace).link(f"soak--agent-{number}")
                for task_id in link.task_ids:
                    status, attempt = client.hmget(keys.task(task_id), "status", "attempt")
                    self.outcome.ledgers[task_id] = (status or "none", int(attempt or 0))
            for key in client.scan_iter("*"):
                if client.pttl(key) == -1:
                    self.outcome.broken.append(f"{key} has no TTL")
