"""A run in this process: a controller on a communicator, and sites that are threads."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Set
from typing import Any

import numpy as np
from redflare_workers.apis.client import Client
from redflare_workers.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from redflare_workers.apis.shareable import Shareable
from redflare_workers.communicator.comm_observer import CommObserver
from redflare_workers.communicator.wf_comm_server import WFCommServer
from redflare_workers.workflow.controller import Controller

from tests.support.communicator.local_engine import LocalEngine

#: The work of a site: from name and data of a task to its result; None: the site dies with the task.
Work = Callable[[str, Shareable], Shareable | None]


class _Wakeup(CommObserver):
    """Wakes sites that wait for a task; ``count`` is the number of wake-ups."""

    def __init__(self) -> None:
        self.count = 0
        self.changed = threading.Condition()

    def may_ask(self, names: Set[str] | None) -> None:
        self.set()

    def set(self) -> None:
        with self.changed:
            self.count += 1
            self.changed.notify_all()


class LocalFederation:
    """A controller and its sites.

    Args:
        controller: the one to run.
        sites: the work of each site, by name; all of them join at once.
    """

    def __init__(self, controller: Controller, sites: dict[str, Work] | None = None) -> None:
        self.controller = controller
        self.engine = LocalEngine()
        self.communicator = WFCommServer()
        self._wakeup = self.communicator.observer = _Wakeup()
        self._over = False
        self._errors: list[BaseException] = []
        self._threads: list[threading.Thread] = []
        controller.set_communicator(self.communicator)
        self.engine.add_component("controller", controller)
        for name, work in (sites or {}).items():
            self.join(name, work)

    def join(self, name: str, work: Work) -> None:
        """Add a site; a known name restarts that site."""
        client = self.engine.join(name)
        thread = threading.Thread(target=self._live, args=(client, work), name=f"site-{name}", daemon=True)
        self._threads.append(thread)
        thread.start()
        self._wakeup.set()

    def run(self) -> None:
        """Run the controller; raise the exception of a site's work."""
        with self.engine.new_context() as fl_ctx:
            self.communicator.initialize_run(fl_ctx)
            try:
                self.controller.initialize(fl_ctx)
                self.controller.control_flow(self.engine.abort_signal, fl_ctx)
            finally:
                self.controller.stop_controller(fl_ctx)
                self.communicator.finalize_run(fl_ctx)
                self._over = True
                self._wakeup.set()
                for thread in self._threads:
                    thread.join(timeout=10)
        assert not any(thread.is_alive() for thread in self._threads), "a site is still at work"
        for error in self._errors:
            raise error

    def _live(self, client: Client, work: Work) -> None:
        try:
            self._work(client, work)
        except BaseException as exc:
            self._errors.append(exc)
            self.engine.abort_signal.trigger(str(exc))

    def _work(self, client: Client, work: Work) -> None:
        wakeup = self._wakeup
        while not self._over:
            with wakeup.changed:
                seen = wakeup.count
            name, task_id, data = self.communicator.process_task_request(client, self.engine.new_context())
            if data is None:
                with wakeup.changed:
                    wakeup.changed.wait_for(lambda seen=seen: wakeup.count != seen or self._over)  # type: ignore[misc]
                continue
            result = work(name, copy.deepcopy(data))
            if result is None:
                return
            result.set_cookie_jar(data.get_cookie_jar())
            self.communicator.process_submission(client, name, task_id, result, self.engine.new_context())


def adding(amount: float, steps: float = 1, difference: bool = False, **meta: Any) -> Work:
    """A site whose training adds a number to every weight."""

    def work(name: str, data: Shareable) -> Shareable:
        given = from_shareable(data).data
        made = {key: value * (0 if difference else 1) + np.float32(amount) for key, value in given.items()}
        kind = DataKind.WEIGHT_DIFF if difference else DataKind.WEIGHTS
        return DXO(kind, made, {MetaKey.NUM_STEPS_CURRENT_ROUND: steps, **meta}).to_shareable()

    return work


def round_of(data: Shareable) -> int:
    """Which round a task belongs to."""
    number = data.get_header("current_round")
    assert isinstance(number, int)
    return number
