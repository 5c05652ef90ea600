"""``IPCExchanger``: the executor of a client job (CJ) whose tasks are carried out by the agent of its site.

``execute`` is NVFlare's executor interface; ``run`` is the plain form for scripts and notebooks. Both block in the
caller's thread.
"""

from __future__ import annotations

import time
from pathlib import Path
from secrets import token_hex
from typing import Any, Self

from redflare_broker.config.settings import LinkSettings, load_workspace
from redflare_broker.constants import TaskResult
from redflare_broker.scripts.task_states import ACCEPTED, REJECTED

from redflare_workers.apis.dxo import from_shareable
from redflare_workers.apis.executor import Executor
from redflare_workers.apis.fl_constant import FLContextKey
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.shareable import make_reply
from redflare_workers.errors import TaskAborted, TaskFailed, TaskRejected, TaskTimeout

from .agent_executor import AgentExecutor, AgentTask
from .translation import agent_id_of

__all__ = ["IPCExchanger", "TaskAborted", "TaskFailed", "TaskRejected", "TaskTimeout"]


class IPCExchanger(AgentExecutor, Executor):
    """Hands tasks to one agent and waits for its results; after NVFlare's class of this name.

    As an executor it begins at START_RUN and says bye at END_RUN. In a script it is a context manager::

        with IPCExchanger(redis_url="redis://localhost", site_name="site-1", agent_id="trainer") as exchanger:
            result = exchanger.run("train", {"weights": weights})

    It passes data on as it is: a task whose DXO holds an ``EncodedPayload`` goes to the agent without being decoded
    here, and is answered with a DXO that holds an ``EncodedPayload``; then call ``release_result``.

    Args:
        send_task_timeout, resend_task_interval, agent_ack_timeout: kept for NVFlare's signature; a task stays in Redis
            until it is fetched or aborted, and the goodbye needs no answer here.
        agent_connection_timeout: seconds without a heartbeat of the agent after which it counts as silent.
        agent_heartbeat_timeout: seconds without a heartbeat of the agent after which it is gone: the task in progress
            is aborted and the job panics; None: never.
        agent_heartbeat_interval: seconds between two heartbeats of this side; less when a timeout is shorter.
        agent_id: name of the agent at its site; None: ``agent_id`` in the job's meta.
        redis_url: as the agent's ``flare_site_url``.
        site_name: name of the site; None: the identity name of the context at START_RUN.
        job_id: the agent belongs to this one job.
        workspace_dir: folder with ``comm_config.json`` and ``startup/``.
        secure_mode: ``startup/rootCA.pem`` must be there.
        encoded_results: results come back as ``EncodedPayload`` whether or not their task came as one.
        settings: instead of those in the workspace.
        client: a redis-py or fakeredis client to use instead of the URL.
    """

    accepts_encoded = True

    _dxo_of = staticmethod(from_shareable)
    _make_reply = staticmethod(make_reply)

    def __init__(
        self,
        send_task_timeout: float = 5.0,
        resend_task_interval: float = 2.0,
        agent_connection_timeout: float = 60.0,
        agent_heartbeat_timeout: float | None = None,
        agent_heartbeat_interval: float = 5.0,
        agent_ack_timeout: float = 5.0,
        agent_id: str | None = None,
        *,
        redis_url: str = "",
        site_name: str | None = None,
        job_id: str | None = None,
        workspace_dir: str | Path = ".",
        secure_mode: bool = False,
        encoded_results: bool = False,
        settings: LinkSettings | None = None,
        client: Any = None,
    ) -> None:
        Executor.__init__(self)
        AgentExecutor.__init__(
            self,
            agent_id=agent_id,
            site_name=site_name,
            job_id=job_id,
            redis_url=redis_url,
            agent_connection_timeout=agent_connection_timeout,
            agent_heartbeat_timeout=agent_heartbeat_timeout,
            agent_heartbeat_interval=agent_heartbeat_interval,
            settings=settings or load_workspace(workspace_dir, secure_mode),
            client=client,
        )
        self.send_task_timeout = send_task_timeout
        self.resend_task_interval = resend_task_interval
        self.agent_ack_timeout = agent_ack_timeout
        self.encoded_results = encoded_results

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    # -- the plain form ------------------------------------------------------------------------------------------------

    def run(
        self,
        task_name: str,
        data: Any,
        meta: dict[str, Any] | None = None,
        timeout: float | None = None,
        *,
        task_id: str | None = None,
    ) -> TaskResult:
        """Hand a task to the agent and wait for its result.

        Args:
            data: tree of dicts, lists, scalars, bytes, numpy arrays, torch tensors.
            meta: small values beside it.
            timeout: seconds, from now to the result; None: no limit. It covers the wait for an agent to connect.
            task_id: the same id again, also from another process after a crash, gives the same result, until another
                task is handed out; None: a new one.

        Returns:
            the agent's result, whatever its return code.

        Raises:
            TaskTimeout: no result in time; it is a TimeoutError.
            TaskAborted, TaskRejected: no result will come; the message says why.
            EncodeError: the task holds something that cannot be sent.
            RuntimeError: not started, or another task is in progress.
        """
        if timeout is not None and not timeout > 0:
            raise ValueError(f"timeout must be > 0, but got {timeout}")
        deadline = None if timeout is None else time.monotonic() + timeout
        fqcn = self.fqcn
        if not self._begin():
            raise RuntimeError(f"{self!r} has a task in progress; use one exchanger per agent and one task at a time")
        try:
            task = AgentTask(task_id=task_id or token_hex(16), meta=meta or {}, data=data)
            outcome = self._exchange(task_name, task, lambda: "", deadline)
        finally:
            self._end()
        if outcome.status == ACCEPTED:
            return TaskResult(outcome.meta, outcome.data, outcome.rc)
        message = f"task {task_name!r} of agent {fqcn}: {outcome.reason}"
        if outcome.status == REJECTED:
            raise TaskRejected(message)
        if deadline is not None and time.monotonic() >= deadline:
            raise TaskTimeout(f"{message} ({timeout} s)")
        raise TaskAborted(message)

    # -- the executor --------------------------------------------------------------------------------------------------

    def _prepare(self, fl_ctx: FLContext) -> None:
        self.agent_id = self.agent_id or agent_id_of(fl_ctx.get_prop(FLContextKey.JOB_META))
        self._site_name = self._site_name or fl_ctx.get_identity_name()

    def release_result(self, handed_over: bool) -> None:
        """Release the payload of the last result that came back encoded; without one this has no effect.

        Args:
            handed_over: its receiver, such as the server that confirmed it, renews and deletes its chunks from now on.
                Else they stay for a while, should the same task id be asked for again. The next task does the latter if
                this was not called.
        """
        if self._link is not None:
            self._link.release_result(handed_over)
