"""Executors that time themselves inside a client job: one task of the server becomes many for the agent.

So nothing of NVFlare's server is in the figures. Only the first site measures.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
from nvflare.apis.dxo import DXO, DataKind, from_shareable
from nvflare.apis.fl_constant import FLContextKey
from nvflare.app_common.executors.ipc_exchanger import IPCExchanger
from redflare_workers.nvflare import RedisExchanger

MEASURING_SITE = "site-1"
TINY = 8


class _Timed:
    """``plan``: trips of a tiny task, MB and trips of each payload, seconds of idling; ``output``: a JSON file."""

    plan: dict[str, Any]
    output: str

    def execute(self, task_name: str, shareable: Any, fl_ctx: Any, abort_signal: Any) -> Any:
        if fl_ctx.get_identity_name() == MEASURING_SITE:

            def trips(nbytes: int, count: int) -> list[float]:
                return [self._trip(nbytes, fl_ctx, abort_signal) for _ in range(count)]

            trips(TINY, 3)  # open the connections
            figures: dict[str, Any] = {"tiny": trips(TINY, self.plan["tiny"])}
            for megabytes, count in self.plan["payload"]:
                figures[f"{megabytes} MB"] = trips(megabytes * 1_000_000, count + 1)[1:]
            figures |= self._idle()
            Path(self.output).write_text(json.dumps(figures))
        return shareable

    def _trip(self, nbytes: int, fl_ctx: Any, abort_signal: Any) -> float:
        task = DXO(DataKind.WEIGHTS, {"w": np.ones(nbytes // 4, np.float32)}).to_shareable()
        task.set_header(FLContextKey.TASK_ID, uuid.uuid4().hex)
        begin = time.perf_counter()
        reply = super().execute("echo", task, fl_ctx, abort_signal)  # type: ignore[misc]
        seconds = time.perf_counter() - begin
        result = from_shareable(reply)
        assert result.data["w"].nbytes == nbytes
        self._agent = result.meta["pid"]
        return seconds

    def _idle(self) -> dict[str, float]:
        """Processor seconds of this process and of the agent's, as for a minute."""
        seconds = self.plan["idle"]
        job, agent = _processor_seconds(os.getpid()), _processor_seconds(self._agent)
        time.sleep(seconds)
        job, agent = _processor_seconds(os.getpid()) - job, _processor_seconds(self._agent) - agent
        return {"job cpu": job * 60 / seconds, "agent cpu": agent * 60 / seconds}


def _processor_seconds(pid: int) -> float:
    """Of all threads of a process; Linux counts them in nanoseconds."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


class TimedIPCExchanger(_Timed, IPCExchanger):
    def __init__(self, agent_id: str, plan: dict[str, Any], output: str) -> None:
        IPCExchanger.__init__(self, agent_id=agent_id)
        self.plan, self.output = plan, output


class TimedRedisExchanger(_Timed, RedisExchanger):
    def __init__(self, agent_id: str, redis_url: str, plan: dict[str, Any], output: str) -> None:
        RedisExchanger.__init__(self, agent_id=agent_id, redis_url=redis_url)
        self.plan, self.output = plan, output
