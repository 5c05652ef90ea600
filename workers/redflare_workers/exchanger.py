"""``IPCExchanger``: the client job's (CJ's) end of the link to the agent of its site.

``execute`` is NVFlare's executor interface; ``run`` is the plain form for scripts and notebooks. Both block in the
caller's thread; what many exchangers of a process have in common, they share (``hub``).
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from secrets import token_hex
from types import TracebackType
from typing import Any, Final, Self

from redflare_broker.defs import TaskResult
from redflare_broker.errors import ConfigError, EncodeError, RedflareError, Unavailable
from redflare_broker.exchange import Outcome
from redflare_broker.fqcn import agent_site_fqcn
from redflare_broker.job_link import JobLink
from redflare_broker.liveness import Liveness, Peer
from redflare_broker.scripts import ACCEPTED, REJECTED
from redflare_broker.sealed import Sealed
from redflare_broker.settings import LinkSettings, load_settings

from .apis.dxo import DXO, from_shareable
from .apis.event_type import EventType
from .apis.executor import Executor
from .apis.fl_constant import FLContextKey, ReturnCode
from .apis.fl_context import FLContext
from .apis.shareable import ReservedHeaderKey, Shareable, make_reply
from .apis.signal import Signal
from .errors import TaskAborted, TaskFailed, TaskRejected, TaskTimeout
from .hub import Hub, close_hub, open_hub
from .translation import agent_id_of, problem_of, reply_of, task_meta

__all__ = ["IPCExchanger", "TaskAborted", "TaskFailed", "TaskRejected", "TaskTimeout"]

logger = logging.getLogger(__name__)

#: Seconds between two looks at an abort signal that cannot call back (one of NVFlare's own).
_LOOK_AT_SIGNAL: Final = 0.5


class IPCExchanger(Executor):
    """Hands tasks to one agent and waits for its results; after NVFlare's class of this name.

    As an executor it begins at START_RUN and says bye at END_RUN. In a script it is a context manager::

        with IPCExchanger(redis_url="redis://localhost", site_name="site-1", agent_id="trainer") as exchanger:
            result = exchanger.run("train", {"weights": weights})

    It passes data on as it is: a task whose DXO holds a ``Sealed`` goes to the agent without being decoded here, and is
    answered with a DXO that holds a ``Sealed``; then say ``release_result``.

    Args:
        send_task_timeout: kept for NVFlare's signature; a task stands in Redis until it is fetched or aborted.
        resend_task_interval: kept for NVFlare's signature; see ``send_task_timeout``.
        agent_connection_timeout: seconds without a sign of the agent after which it counts as disconnected.
        agent_heartbeat_timeout: seconds without a sign of the agent after which it is dead: the task in progress is
            aborted and the job panics; None: never.
        agent_heartbeat_interval: seconds between two heartbeats of this side; less when a timeout is shorter.
        agent_ack_timeout: kept for NVFlare's signature; the goodbye needs no answer here.
        agent_id: name of the agent at its site; None: ``agent_id`` in the job's meta.
        redis_url: as the agent's ``flare_site_url``.
        site_name: name of the site; None: the identity name of the context at START_RUN.
        job_id: the agent belongs to this one job.
        workspace_dir: folder with ``comm_config.json`` and ``startup/``.
        secure_mode: ``startup/rootCA.pem`` must be there.
        seal_results: results come back sealed whether or not their task did.
        settings: instead of those in the workspace.
        client: a redis-py or fakeredis client to use instead of the URL.
    """

    accepts_sealed = True

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
        seal_results: bool = False,
        settings: LinkSettings | None = None,
        client: Any = None,
    ) -> None:
        super().__init__()
        self.send_task_timeout = send_task_timeout
        self.resend_task_interval = resend_task_interval
        self.agent_connection_timeout = agent_connection_timeout
        self.agent_heartbeat_timeout = agent_heartbeat_timeout
        self.agent_heartbeat_interval = agent_heartbeat_interval
        self.agent_ack_timeout = agent_ack_timeout
        self.agent_id = agent_id
        self.seal_results = seal_results
        self._redis_url = redis_url
        self._site_name = site_name
        self._job_id = job_id
        self._settings = settings or load_settings(workspace_dir, secure_mode)
        self._client = client
        self._engine: Any = None
        self._hub: Hub | None = None
        self._link: JobLink | None = None
        self._busy = threading.Lock()
        #: Why no task can be run any more; "" while it can.
        self._done = ""
        #: Why the task in progress is to be aborted; None while there is none.
        self._aborts: list[str] | None = None
        #: The thread of the task in progress, 0 while there is none; and whether a stop is left to its end.
        self._worker = 0
        self._stop_owed = False

    # -- life ----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Open this side of the link; an older CJ of the same agent is fenced from now on. A second start warns.

        Raises:
            ConfigError: a ValueError; site, agent or URL is missing or wrong.
            PreflightError: the server is not fit to hold tasks.
            ServerError: the server refuses this user.
        """
        if self._link is not None:
            logger.warning("%r was started before; this start has no effect", self)
            return
        if not self.agent_id or not self._site_name:
            raise ConfigError(f"site_name and agent_id are needed, but are {self._site_name!r} and {self.agent_id!r}")
        fqcn = agent_site_fqcn(self._site_name, self.agent_id, self._job_id)
        hub = open_hub(self._redis_url, self._settings.connection, self._client)
        liveness = Liveness(self.agent_connection_timeout, self.agent_heartbeat_timeout)
        link = JobLink(hub.server, fqcn, self._settings, liveness, self._on_news)
        link.preflight = lambda: hub.preflight(self._settings.allow_eviction, link.keys)
        link.interval = liveness.look_every(self.agent_heartbeat_interval)
        self._done = ""
        try:
            link.open_lane()
        except Unavailable as exc:
            logger.warning("%s waits for its server: %s", link.label, exc)
        except BaseException:
            link.drop_lane()
            close_hub(hub)
            raise
        self._hub, self._link = hub, link
        hub.heartbeats.add(link)
        logger.info("%s started at %s", link.label, hub.server.url)

    def stop(self) -> None:
        """Abort the task in progress, say bye to the agent, and close. A stop without a start has no effect.

        A signal handler that breaks into ``run`` or ``execute`` may call it: they then close at their end. In a forked
        child it only forgets what belongs to the parent.
        """
        hub, link = self._hub, self._link
        if hub is None or link is None:
            return
        if hub.pid != os.getpid():
            self._hub = self._link = None
            return
        self._done = self._done or "the client job was stopped"
        link.nudge()
        if self._worker == threading.get_ident():
            self._stop_owed = True
            return
        with self._busy:
            if self._link is not link:
                return
            self._stop_owed = False
            hub.heartbeats.remove(link)
            link.close(bye=True)
            link.drop_lane()
            self._hub = self._link = None
        close_hub(hub)
        logger.info("%s stopped", link.label)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def fqcn(self) -> str:
        """Name of the agent this exchanger works with; "" before the start."""
        return self._link.keys.fqcn if self._link else ""

    @property
    def agent_connected(self) -> bool:
        """The agent gave a sign of life within the connection timeout."""
        return self._link is not None and self._link.peer is Peer.CONNECTED

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
            task_id: asked for again, also by another process after a crash, it gives the same result; None: a new one.

        Returns:
            the agent's result, whatever its return code.

        Raises:
            TaskTimeout: no result in time; it is a TimeoutError.
            TaskAborted, TaskRejected: no result will come; says why.
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
            outcome = self._exchange(task_id or token_hex(16), task_name, meta or {}, data, lambda: "", deadline)
        finally:
            self._end()
        if outcome.status == ACCEPTED:
            return TaskResult(outcome.meta, outcome.data, outcome.rc)
        said = f"task {task_name!r} of agent {fqcn}: {outcome.reason}"
        if outcome.status == REJECTED:
            raise TaskRejected(said)
        if deadline is not None and time.monotonic() >= deadline:
            raise TaskTimeout(f"{said} ({timeout} s)")
        raise TaskAborted(said)

    def abort(self, reason: str = "abort was called") -> None:
        """From any thread: abort the task in progress, if there is one."""
        aborts, link = self._aborts, self._link
        if aborts is not None and link is not None:
            aborts.append(reason)
            link.nudge()

    def _begin(self) -> bool:
        """Be busy from now on; False when there is a task in progress."""
        if not self._busy.acquire(blocking=False):
            return False
        self._worker = threading.get_ident()
        self._aborts = []
        return True

    def _end(self) -> None:
        self._aborts = None
        self._worker = 0
        self._busy.release()
        if self._stop_owed:
            self.stop()

    def _exchange(
        self,
        task_id: str,
        task_name: str,
        meta: dict[str, Any],
        data: Any,
        aborted: Callable[[], str],
        deadline: float | None,
        look_every: float | None = None,
        seal_result: bool = False,
    ) -> Outcome:
        link = self._link
        if link is None:
            raise RuntimeError(f"{self!r} is not started; call start() or use it as a context manager")
        aborts = self._aborts
        return link.exchange(
            task_id,
            task_name,
            meta,
            data,
            give_up=lambda: self._done or (aborts[0] if aborts else aborted()),
            deadline=deadline,
            look_every=look_every,
            seal_result=seal_result,
        )

    # -- the executor --------------------------------------------------------------------------------------------------

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """START_RUN begins, END_RUN says bye; what is missing for a start makes the job panic."""
        if event_type == EventType.START_RUN:
            self._start_run(fl_ctx)
        elif event_type == EventType.END_RUN:
            self.stop()

    def _start_run(self, fl_ctx: FLContext) -> None:
        self._engine = fl_ctx.get_engine()
        try:
            self.agent_id = self.agent_id or agent_id_of(fl_ctx.get_prop(FLContextKey.JOB_META))
            self._site_name = self._site_name or fl_ctx.get_identity_name()
            self.start()
        except RedflareError as exc:
            self.system_panic(str(exc), fl_ctx)

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        """Hand a task to the agent and wait, without a limit, for its result.

        Returns:
            the result as a DXO's Shareable, or a reply with a return code: BAD_REQUEST_DATA when a task is in progress
            or the agent cannot read this one, BAD_TASK_DATA when there is no DXO in it, TASK_ABORTED, or the agent's.
            BLOB_MISSING: the task came sealed and its chunks are gone; it stands until it is sent again with others.
        """
        if not self._begin():
            self.log_error(fl_ctx, f"task {task_name!r} came while another is in progress")
            return make_reply(ReturnCode.BAD_REQUEST_DATA)
        try:
            return self._execute(task_name, shareable, fl_ctx, abort_signal)
        finally:
            self._end()

    def _execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        if self._link is None or self._done or abort_signal.triggered:
            return make_reply(ReturnCode.TASK_ABORTED)
        try:
            dxo = from_shareable(shareable)
        except Exception as exc:
            self.log_error(fl_ctx, f"task {task_name!r} holds no DXO: {exc}")
            return make_reply(ReturnCode.BAD_TASK_DATA)
        task_id = shareable.get_header(ReservedHeaderKey.TASK_ID) or token_hex(16)
        look_every = None if hasattr(abort_signal, "add_callback") else _LOOK_AT_SIGNAL
        try:
            with self._waking(abort_signal):
                outcome = self._exchange(
                    task_id,
                    task_name,
                    task_meta(dxo, shareable),
                    {} if dxo.data is None else dxo.data,
                    lambda: "the job was aborted" if abort_signal.triggered else "",
                    None,
                    look_every,
                    self.seal_results or isinstance(dxo.data, Sealed),
                )
        except EncodeError as exc:
            self.log_error(fl_ctx, f"task {task_name!r} {task_id} cannot be sent: {exc}")
            return make_reply(ReturnCode.BAD_TASK_DATA)
        except RedflareError as exc:
            self.log_error(fl_ctx, f"task {task_name!r} {task_id} failed: {exc}")
            return make_reply(ReturnCode.EXECUTION_EXCEPTION)
        return self._reply(outcome, dxo, task_name, fl_ctx)

    def _waking(self, abort_signal: Signal) -> AbstractContextManager[Any]:
        link = self._link
        if link is None or not hasattr(abort_signal, "add_callback"):
            return nullcontext()
        return abort_signal.add_callback(link.nudge)

    def _reply(self, outcome: Outcome, dxo: DXO, task_name: str, fl_ctx: FLContext) -> Shareable:
        if problem := problem_of(outcome):
            self.log_error(fl_ctx, f"task {task_name!r}: {problem}")
        elif outcome.status != ACCEPTED:
            self.log_info(fl_ctx, f"task {task_name!r} is aborted: {outcome.reason}")
        return reply_of(outcome, dxo)

    def release_result(self, handed_over: bool) -> None:
        """Say what becomes of the payload of the last result that came back sealed; without one it has no effect.

        Args:
            handed_over: whoever got it, as the server that confirmed it, renews and deletes its chunks from now on.
                Else they stay for a while, should the same task id be asked for again; so it is too when nothing was
                said before the next task.
        """
        if self._link is not None:
            self._link.release_result(handed_over)

    # -- what the heartbeat thread learns ------------------------------------------------------------------------------

    def _on_news(self) -> None:
        link = self._link
        if link is None or self._done:
            return
        if link.fenced:
            self._done = "another client job has taken over this agent"
        elif link.peer is Peer.DEAD:
            self._done = f"agent {link.keys.fqcn} is dead: no sign of it for {link.liveness.silence:.0f} s"
        if self._done:
            logger.error("%s: %s", link.label, self._done)
            link.nudge()
        # last: whoever hears of it may wait for the task in progress to end, or fail
        if self._done and not link.fenced:
            self._panic(self._done)

    def _panic(self, reason: str) -> None:
        if self._engine is None:
            return
        with self._engine.new_context() as fl_ctx:
            self.system_panic(reason, fl_ctx)

    def __repr__(self) -> str:
        state = f"done ({self._done})" if self._done else "running" if self._link else "new"
        return f"<IPCExchanger {self._site_name}/{self.agent_id} {state}>"
