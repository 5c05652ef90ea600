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

from tests.chaos.pair import Pair
from tests.chaos.plan import Injection, plan
from tests.chaos.tally import Tally
from tests.support.link.processes import quick_settings
from tests.support.redis_server.proxy import proxy

#: Seconds without the end of any task after which the rest counts as lost.
PATIENCE: Final = 40.0
#: "everysec", the usual setting, may lose what was written in the second before a crash, and that is no promise broken.
SAFE: Final = {"appendfsync": "always"}
_SETTINGS: Final = quick_settings(
    "soak", policy=RetentionPolicy(retention=3600.0, settled_retention=3600.0, settled_tasks=100_000)
)


class Soak:
    """One run: what is injected follows from ``seed``, when exactly it hits from the machine.

    Args:
        folder: for the server's data and the logs of the processes.
        report: called with a line now and then.
    """

    def __init__(
        self,
        folder: Path,
        *,
        seed: int,
        tasks: int,
        injections: int,
        pairs: int = 8,
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.plan = plan(seed, tasks, pairs, injections)
        self.tally = Tally(tasks=tasks)
        self._report = report
        self._ends: list[tuple[float, Callable[[], None]]] = []
        self._stack = ExitStack()
        self._server = self._stack.enter_context(EmbeddedServer(folder / "server", extra=SAFE))
        self._cable = self._stack.enter_context(proxy(self._server.url))
        task_ids = [f"t{number}" for number in range(tasks)]
        urls = (self._cable.url, self._server.url)
        self._pairs = [
            Pair(number, task_ids[number::pairs], urls, _SETTINGS, folder, self.tally) for number in range(pairs)
        ]
        for pair in self._pairs:
            self._stack.callback(pair.close)

    def run(self) -> Tally:
        """Run all tasks under all injections, and judge."""
        began = time.monotonic()
        with self._stack:
            self._run()
            self._end_all()
            self._read_ledgers()
        self.tally.seconds = time.monotonic() - began
        self.tally.judge([task_id for pair in self._pairs for task_id in pair.task_ids])
        return self.tally

    def _run(self) -> None:
        coming = list(self.plan)
        progress = time.monotonic()
        while not all(pair.finished for pair in self._pairs):
            self._wait()
            if sum(pair.hear(child) for pair in self._pairs for child in pair.children):
                progress = time.monotonic()
            outcomes = sum(pair.done for pair in self._pairs)
            while coming and coming[0].at <= outcomes:
                self._inject(coming.pop(0))
            self._end_due()
            if time.monotonic() - progress > PATIENCE:
                stuck = [pair.name for pair in self._pairs if not pair.finished]
                self.tally.broken.append(f"nothing has ended for {PATIENCE:g} s; stuck: {stuck}")
                return

    def _wait(self) -> None:
        """Wait for a message, or for the end of an injection that lasts."""
        due = min((moment for moment, _ in self._ends), default=time.monotonic() + 1)
        connections = [child.connection for pair in self._pairs for child in pair.children]
        wait(connections, max(due - time.monotonic(), 0))

    # -- injections ----------------------------------------------------------------------------------------------------

    def _inject(self, injection: Injection) -> None:
        self._report(str(injection))
        self.tally.injected[injection.kind] += 1
        pair = self._pairs[injection.pair]
        act: dict[str, Callable[[], Callable[[], None] | None]] = {
            "kill agent": pair.kill_agent,
            "stop agent": pair.stop_agent,
            "replace agent": pair.replace_agent,
            "freeze agent": pair.freeze_agent,
            "kill CJ": pair.kill_cj,
            "replace CJ": pair.replace_cj,
            "freeze CJ": pair.freeze_cj,
            "abort task": pair.abort_task,
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

    # -- afterwards ----------------------------------------------------------------------------------------------------

    def _read_ledgers(self) -> None:
        with redis.Redis.from_url(self._server.url, decode_responses=True) as client:
            for number, pair in enumerate(self._pairs):
                keys = Keys(_SETTINGS.namespace).link(f"soak--agent-{number}")
                for task_id in pair.task_ids:
                    status, attempt = client.hmget(keys.task(task_id), "status", "attempt")
                    self.tally.ledgers[task_id] = (status or "none", int(attempt or 0))
            for key in client.scan_iter("*"):
                if client.pttl(key) == -1:
                    self.tally.broken.append(f"{key} has no TTL")
