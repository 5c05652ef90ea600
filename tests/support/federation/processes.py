"""A whole federation of real processes on a real server: a job's server, its sites' client jobs, and their agents."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, cast

import numpy as np
import redis
from redflare_broker.keys import Keys

from tests.programs import client_job as client_job_program
from tests.programs import server_job as server_job_program
from tests.programs import trainer as trainer_program
from tests.programs.client_job import ClientJobArgs
from tests.programs.server_job import ServerJobArgs, initial_model
from tests.programs.trainer import TrainerArgs
from tests.programs.training import number_of, trained
from tests.support.link.processes import RETENTION, quick_settings
from tests.support.process.child import Child
from tests.support.redis_server.expiry import assert_expires
from tests.support.waiting import wait_until

#: Seconds that a whole run may take.
PATIENCE: Final = 40.0
COMPLETED: Final = "FINISHED:COMPLETED"

_numbers = itertools.count()


class Federation:
    """The processes of one job in a namespace of its own, watched through a connection of the test's own.

    Args:
        url: the server.
        folder: for the logs of the processes.
        client: the test's connection to it.
        changes: of the settings.
    """

    def __init__(self, url: str, folder: Path, client: redis.Redis, namespace: str = "flare", **changes: Any) -> None:
        self.url = url
        self.client = client
        self.settings = quick_settings(namespace, **changes)
        self.keys = Keys(self.settings.namespace).job("server.job")
        self._server_cell = Keys(self.settings.namespace).cell("server.job")
        self.servers: list[Child] = []
        #: Agents and CJs by site, including those that were replaced.
        self.trainers: dict[str, list[Child]] = {}
        self.cjs: dict[str, list[Child]] = {}
        self._folder = folder
        self._children = ExitStack()

    def unanswered(self) -> int:
        """How many messages are in the inboxes of the job's server."""
        keys = self._server_cell
        senders = cast("set[bytes]", self.client.smembers(keys.senders))
        return sum(int(self.client.xlen(keys.inbox(sender.decode()))) for sender in senders)

    # -- processes -----------------------------------------------------------------------------------------------------

    def server(self, **args: Any) -> Child:
        """Start the server, or its successor."""
        child = self._start(server_job_program.main, ServerJobArgs(**self._made_of(args)))
        self.servers.append(child)
        return child

    def trainer(self, site: str, **args: Any) -> Child:
        """Start a site's agent, or its successor."""
        child = self._start(trainer_program.main, TrainerArgs(site=site, **self._made_of(args)), site)
        self.trainers.setdefault(site, []).append(child)
        return child

    def cj(self, site: str, **args: Any) -> Child:
        """Start a site's client job, or its successor."""
        child = self._start(client_job_program.main, ClientJobArgs(site=site, **self._made_of(args)), site)
        self.cjs.setdefault(site, []).append(child)
        return child

    def light_site(self, site: str, **args: Any) -> Child:
        """A client job that trains by itself."""
        child = self.cj(site, agent=False, **args)
        self.trainers.setdefault(site, []).append(child)
        return child

    def sites(self, numbers: Iterable[int], **args: Any) -> None:
        """Start agents and client jobs; ``args`` are the agents'."""
        for number in numbers:
            self.trainer(f"site-{number}", **args)
            self.cj(f"site-{number}")

    def _made_of(self, args: dict[str, Any]) -> dict[str, Any]:
        return {"url": self.url, "settings": self.settings, **args}

    def _start(self, main: Any, args: object, site: str = "") -> Child:
        name = type(args).__name__.removesuffix("Args").lower()
        child = self._children.enter_context(Child(main, args, self._folder / f"{next(_numbers)}-{name}-{site}.log"))
        child.receive("started")
        return child

    # -- their messages -----------------------------------------------------------------------------------------------

    def trainings(self) -> Counter[tuple[str, int]]:
        """How often each site has begun to train each round."""
        return Counter((site, number) for site, children in self.trainers.items() for number, _ in _trainings(children))

    def trained_for(self) -> dict[tuple[str, int], str]:
        """Id of the client task that each site has trained last in each round."""
        return {
            (site, number): task_id
            for site, children in self.trainers.items()
            for number, task_id in _trainings(children)
        }

    def taken(self) -> dict[tuple[str, int], set[str]]:
        """Ids of the client tasks whose results the server, and its predecessors, have received."""
        found: dict[tuple[str, int], set[str]] = {}
        for child in self.servers:
            for number, site, task_id in child.received("taken"):
                found.setdefault((site, number), set()).add(task_id)
        return found

    def model_of(self, server: Child, rounds: int) -> str:
        """Check that a run completed with the model that follows from its history; return the model's digest."""
        status, reason = server.receive("outcome", PATIENCE)
        assert status == COMPLETED, f"{status}: {reason}\n{server.log_tail()}"
        found, model = server.receive("model")
        (history,) = server.receive("history")
        assert len(history) == rounds
        if model is not None:
            np.testing.assert_allclose(model["w"], averaged(model["w"].size, [each["clients"] for each in history]))
        return str(found)

    # -- the promises --------------------------------------------------------------------------------------------------

    def assert_trained_once(self, sites: Iterable[int], rounds: int) -> None:
        """Check that each site has trained each round once, and that the server has received those results."""
        expected = {(f"site-{number}", each) for number in sites for each in range(rounds)}
        assert self.trainings() == Counter(expected)
        for slot, task_ids in self.taken().items():
            assert task_ids == {self.trained_for()[slot]}, f"results of {slot} came for several client tasks"

    def assert_all_end(self) -> None:
        """Check that every running process knows how the job ended, and has no thread left; end them."""
        for site, children in self.cjs.items():
            for child in (child for child in children if child.alive):
                status, reason = child.receive("outcome", 15)
                assert status == COMPLETED, f"{site} ended with {status}: {reason}"
        for child in [*self.servers, *itertools.chain(*self.cjs.values())]:
            if child.alive:
                assert child.receive("threads") == ([],)
                child.end()
        for children in self.trainers.values():
            for child in (child for child in children if child.alive):
                assert "bye" in child.receive("closed")[0]
                child.end()

    def heartbeats_of(self, site: str, *, agent: bool, cj: bool) -> list[str]:
        """Keys of the heartbeats of a site's processes."""
        link = Keys(self.settings.namespace).link(f"{site}--agent")
        return [link.heartbeat("agent")] * agent + [self.keys.heartbeat(site), link.heartbeat("cj")] * cj

    def own_keys(self) -> list[str]:
        """All keys of the namespace."""
        return sorted(key.decode() for key in self.client.scan_iter(f"{self.settings.namespace}:*", 1000))

    def blobs(self) -> list[str]:
        """Chunks of payloads."""
        return [key for key in self.own_keys() if "blob:" in key]

    def assert_clean(self) -> None:
        """Check that no chunk of a payload is left, and that every key has a TTL."""
        wait_until(lambda: not self.blobs(), what="no chunk of a payload is left")
        for key in self.own_keys():
            assert_expires(key, self.client.pttl(key), RETENTION)

    def close(self) -> None:
        """Kill the processes that are left."""
        self._children.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def averaged(size: int, rounds: Iterable[dict[str, float]]) -> Any:
    """The expected model after rounds in which these sites took part with these steps."""
    model = initial_model(size)
    for number, steps in enumerate(rounds):
        assert all(steps[site] == number_of(site) for site in steps)
        updates = {site: trained(model, site, number)["w"].astype(np.float64) for site in steps}
        mean = sum(updates[site] * steps[site] for site in steps) / sum(steps.values())
        model = {"w": np.asarray(mean, dtype=np.float32)}
    return model["w"]


def _trainings(children: list[Child]) -> list[tuple[Any, ...]]:
    return [training for child in children for training in child.received("training")]
