"""A job's server and its sites as objects for child processes: light clients, and a client job with an agent."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from secrets import token_hex
from typing import Any, Final

import numpy as np
from redflare_broker.cell.cell import Reply
from redflare_broker.keys import Keys
from redflare_broker.payload.encoded_payload import encode_payload, store_payload
from redflare_workers.apis.client import Client
from redflare_workers.apis.dxo import CONTENT, DXO, DataKind
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.shareable import Shareable
from redflare_workers.apis.signal import Signal
from redflare_workers.apis.task import Task
from redflare_workers.client.job.client_job import ClientJob
from redflare_workers.client.shared.cell_host import CellHost
from redflare_workers.client.shared.membership import Membership
from redflare_workers.ipc.exchanger import IPCExchanger
from redflare_workers.protocol.job_messages import GetTask, ServerEvent, Submit
from redflare_workers.protocol.shareable_codec import from_message, to_message
from redflare_workers.server.job.server_job import ServerJob
from redflare_workers.workflow.controller import Controller
from redflare_workers.workflow.fedavg import FedAvg

from tests.benchmarks.harness import idle
from tests.benchmarks.peers import PATIENCE, MeasuredProcess
from tests.support.waiting import wait_until

#: Longest that a whole workflow may take.
LONG: Final = 280.0
_SERVER: Final = "server"
#: Clients that store a large result at the same time: all at once would need fifty times the memory in Redis.
_STORING: Final = 2


def array(nbytes: int) -> Any:
    """Random float32, so that nothing gains by packing it."""
    return np.random.default_rng(1).random(nbytes // 4, np.float32)


def _nbytes(result: Shareable | None) -> int:
    """Bytes of the arrays in a result; 0 for one that is no model."""
    content = (result or Shareable()).get(CONTENT)
    return sum(int(each.nbytes) for each in content["data"].values()) if content else 0


class _ScriptedController(Controller):
    """Lends its context to the benchmark, which schedules tasks in its own thread."""

    def __init__(self) -> None:
        super().__init__()
        self.began = threading.Event()
        self.over = threading.Event()
        self.fl_ctx = FLContext()

    def start_controller(self, fl_ctx: FLContext) -> None: ...

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        self.fl_ctx = fl_ctx
        self.began.set()
        self.over.wait()

    def stop_controller(self, fl_ctx: FLContext) -> None: ...

    def process_result_of_unknown_task(
        self, client: Client, task_name: str, client_task_id: str, result: Shareable, fl_ctx: FLContext
    ) -> None: ...


class _JobServer(MeasuredProcess):
    """The process of a job's server."""

    def __init__(self, controller: Controller, url: str, job_id: str) -> None:
        self._server = ServerJob(controller, redis_url=url, job_id=job_id)
        self._thread = threading.Thread(target=self._server.run, name="bench-server", daemon=True)
        self._thread.start()

    def await_clients(self, count: int) -> None:
        """Wait until the server knows so many clients."""
        wait_until(lambda: len(self._server.engine.get_clients()) >= count, PATIENCE, f"{count} clients have joined")


class BroadcastServer(_JobServer):
    """A server that broadcasts when it is asked to."""

    def __init__(self, url: str, job_id: str) -> None:
        self._controller = _ScriptedController()
        super().__init__(self._controller, url, job_id)
        if not self._controller.began.wait(PATIENCE):
            raise RuntimeError(f"the controller did not begin in {PATIENCE:.0f} s")
        self._large: Task | None = None

    def rounds(self, count: int) -> tuple[float, float]:
        """Broadcast ``count`` times to all clients; return wall and processor seconds."""
        began, used = time.monotonic(), time.process_time()
        for _ in range(count):
            task = Task("tiny", Shareable({"x": 1}))
            self._controller.broadcast_and_wait(task, self._controller.fl_ctx)
        return time.monotonic() - began, time.process_time() - used

    def spaced_rounds(self, count: int, pause: float) -> list[float]:
        """Broadcast ``count`` times, with a pause in which the clients ask again; return when each was scheduled."""
        stamps = []
        for _ in range(count):
            idle(pause)
            task = Task("tiny", Shareable({"x": 1}))
            stamps.append(time.monotonic())
            self._controller.broadcast_and_wait(task, self._controller.fl_ctx)
        return stamps

    def begin_broadcast(self, nbytes: int) -> None:
        """Schedule a broadcast of one array, and do not wait."""
        data = DXO(DataKind.WEIGHTS, {"w": array(nbytes)}).to_shareable()
        self._large = Task("large", data)
        self._controller.broadcast(self._large, self._controller.fl_ctx)

    def finish_broadcast(self) -> list[int]:
        """Wait until all have answered; return the bytes of the arrays in each result."""
        large = self._large
        if large is None:
            return []
        self._large = None
        self._server.communicator.wait_for_task(large)
        return [_nbytes(client_task.result) for client_task in large.client_tasks]

    def close(self) -> None:
        self._controller.over.set()
        self._thread.join(PATIENCE)


class _Averaging(FedAvg):
    """One round of FedAvg, which begins when ``may_begin`` is set."""

    def __init__(self, nbytes: int, clients: int) -> None:
        model = {"w": array(nbytes)}
        super().__init__(model, min_clients=clients, num_rounds=1, wait_time_after_min_received=0, metric=None)
        self.may_begin = threading.Event()

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        self.may_begin.wait()
        super().control_flow(abort_signal, fl_ctx)


class AveragingServer(_JobServer):
    """A server that runs one round of FedAvg."""

    def __init__(self, url: str, job_id: str, nbytes: int, clients: int) -> None:
        self._workflow = _Averaging(nbytes, clients)
        super().__init__(self._workflow, url, job_id)

    def average(self) -> float:
        """Run the round; return the MB by which memory grew at its peak, beyond the model and an idle job."""
        self.mark_memory()
        self._workflow.may_begin.set()
        self._thread.join(LONG)
        if self._thread.is_alive():
            raise RuntimeError(f"the round is not over after {LONG:.0f} s")
        if self._workflow.current_round != 1:
            raise RuntimeError("the round has failed, see the log")
        return self.memory_growth()


class LightClients(MeasuredProcess):
    """Many sites in one process: a membership and a request each, but neither a thread nor an executor.

    Args:
        nbytes: each answers with one float32 array of this size, and asks no more; 0: with next to nothing.
        hold: answers are held back until ``answer``.
    """

    def __init__(self, url: str, job_id: str, count: int, nbytes: int = 0, hold: bool = False) -> None:
        self._host = CellHost(token_hex(4), job_id, redis_url=url)
        self._host.start()
        self._server_cell = f"{_SERVER}.{job_id}"
        self._members = [
            Membership(self._host, self._server_cell, f"{self._host.fqcn.split('.')[0]}-{n}", {}, lambda _: None)
            for n in range(count)
        ]
        self._stamps: deque[float] = deque()
        self._wanted = 0
        self._enough = threading.Event()
        self._held: deque[Callable[[], None]] = deque()
        self._hold = hold
        self._closing = False
        self._message, self._tiny = to_message(Shareable({"x": 1}))
        self._array = array(nbytes) if nbytes else None
        self._storing = threading.Semaphore(_STORING)
        for member in self._members:
            self._host.add_site(member.credentials.client, self._server_cell, self._on_event, self._on_fenced)
            member.join(lambda: "")

    def ask(self) -> None:
        """Every client asks for its first task."""
        for member in self._members:
            self._get_task(member)

    def stamps(self, count: int) -> list[float]:
        """Wait for the next ``count`` tasks; return when each was in hand."""
        self._wanted = count
        while len(self._stamps) < count:
            self._enough.clear()
            if len(self._stamps) < count and not self._enough.wait(PATIENCE):
                raise RuntimeError(f"{len(self._stamps)} of {count} tasks have come in {PATIENCE:.0f} s")
        return [self._stamps.popleft() for _ in range(count)]

    def answer(self) -> None:
        """Answer what was held back, from now on at once."""
        self._hold = False
        while self._held:
            self._held.popleft()()

    def close(self) -> None:
        self._closing = True
        self._host.stop()

    def _on_event(self, event: ServerEvent) -> None: ...

    def _on_fenced(self) -> None: ...

    def _get_task(self, member: Membership) -> None:
        self._ask(GetTask.TOPIC, member, {}, None, lambda reply: self._on_task(member, reply))

    def _on_task(self, member: Membership, reply: Reply) -> None:
        if not self._is_good(reply):
            return
        payload = reply.encoded
        from_message(reply.meta["message"], payload.decode(self._host.server) if payload.blob is None else payload)
        self._stamps.append(time.monotonic())
        if len(self._stamps) >= self._wanted:
            self._enough.set()
        answer = partial(self._submit, member, reply)
        if self._hold:
            self._held.append(answer)
        elif self._array is not None:
            threading.Thread(target=answer, name="bench-submit", daemon=True).start()
        else:
            answer()

    def _submit(self, member: Membership, reply: Reply) -> None:
        named = {"task_name": reply.meta["task_name"], "task_id": reply.meta["task_id"]}
        if self._array is None:
            meta = {**named, "message": self._message}
            self._ask(Submit.TOPIC, member, meta, self._tiny, lambda reply: self._on_submitted(member, reply))
            return
        dxo = DXO(DataKind.WEIGHTS, {"w": self._array}, {"NUM_STEPS_CURRENT_ROUND": 1})
        message, data = to_message(dxo.to_shareable())
        self._storing.acquire()
        settings = self._host.settings
        prefix = Keys(settings.namespace).cell(self._host.fqcn).blob(token_hex(16))
        ttl_ms = settings.policy.retention_ms
        payload = store_payload(
            self._host.server, encode_payload(data, settings.limits), prefix, settings.limits, ttl_ms=ttl_ms
        )
        self._ask(Submit.TOPIC, member, {**named, "message": message}, payload, self._on_stored)

    def _on_stored(self, reply: Reply) -> None:
        self._storing.release()
        self._is_good(reply)

    def _on_submitted(self, member: Membership, reply: Reply) -> None:
        if self._is_good(reply):
            self._get_task(member)

    def _ask(
        self, topic: str, member: Membership, meta: dict[str, Any], data: object, then: Callable[[Reply], None]
    ) -> None:
        if not self._closing:
            self._host.cell.ask(
                GetTask.CHANNEL,
                topic,
                self._server_cell,
                {**member.credentials.to_meta(), **meta},
                data,
                on_reply=then,
            )

    def _is_good(self, reply: Reply) -> bool:
        """Whether the reply is OK; otherwise ask no more: the job is over, or the benchmark will fail."""
        if not reply.ok:
            self._closing = True
        return reply.ok


class PassingSite(MeasuredProcess):
    """A client job that hands tasks to an agent in another process, and passes models through."""

    def __init__(self, url: str, job_id: str, site: str, agent_id: str) -> None:
        exchanger = IPCExchanger(redis_url=url, site_name=site, agent_id=agent_id)
        self._job = ClientJob(site, exchanger, redis_url=url, job_id=job_id, job_meta={"agent_id": agent_id})
        self._thread = threading.Thread(target=self._job.run, name="bench-site", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._job.stop()
        self._thread.join(PATIENCE)
