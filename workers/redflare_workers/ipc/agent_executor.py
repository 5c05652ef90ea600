"""``AgentExecutor``: the client job's (CJ's) end of the link to one agent, under our executor and under NVFlare's.

It starts and stops, has one task in progress at a time, and learns from the heartbeat thread that the agent is gone or
another CJ has taken over. All of a process share one connection and one heartbeat thread (``SharedConnection``).
"""

from __future__ import annotations

import logging
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from secrets import token_hex
from typing import Any, Final

from redflare_broker.config.settings import LinkSettings
from redflare_broker.errors import ConfigError, EncodeError, RedflareError, Unavailable
from redflare_broker.fqcn import agent_site_fqcn
from redflare_broker.link.cj_link import CJLink
from redflare_broker.link.exchange import ExchangeOutcome
from redflare_broker.link.liveness import Liveness, Peer
from redflare_broker.link.session import Session
from redflare_broker.payload.encoded_payload import EncodedPayload
from redflare_broker.runtime.shared_connection import SharedConnection
from redflare_broker.scripts.task_states import ACCEPTED
from redflare_broker.wire.collection import to_plain

from redflare_workers.apis.event_type import EventType
from redflare_workers.apis.fl_constant import ReturnCode
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.shareable import ReservedHeaderKey, Shareable
from redflare_workers.apis.signal import Signal

from .translation import LONGEST_REASON, problem_of, reply_of, task_meta

logger = logging.getLogger(__name__)

#: Seconds between two polls of an abort signal that cannot call back (one of NVFlare's own).
_SIGNAL_POLL_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentTask:
    """What the agent gets of a task."""

    task_id: str
    meta: dict[str, Any]
    data: Any
    #: The result's data is wanted as an ``EncodedPayload``.
    encoded_result: bool = False


class AgentExecutor(ABC):
    """Holds the link to one agent; base of the executors that exchange tasks with it.

    A subclass is an executor as well, ours or NVFlare's, and knows that one's Shareables and DXOs. Types that are
    named here are ours; NVFlare's have what is used of them.

    Args:
        agent_id, site_name: None: to be set before the start.
        job_id: the agent belongs to this one job.
        redis_url: "" when a client is given.
        agent_connection_timeout, agent_heartbeat_timeout, agent_heartbeat_interval: as ``IPCExchanger``'s.
        client: a redis-py or fakeredis client to use instead of the URL.
    """

    #: Of the executor's kind of Shareable: its DXO, or an exception that says why it has none; and a reply of a return
    #: code alone.
    _dxo_of: Callable[[Any], Any]
    _make_reply: Callable[..., Shareable]
    #: Results come back as ``EncodedPayload`` whether or not their task came as one.
    encoded_results: bool = False
    agent_id: str | None

    def __init__(
        self,
        *,
        agent_id: str | None,
        site_name: str | None = None,
        job_id: str | None = None,
        redis_url: str,
        agent_connection_timeout: float,
        agent_heartbeat_timeout: float | None,
        agent_heartbeat_interval: float,
        settings: LinkSettings | None,
        client: Any,
    ) -> None:
        self.agent_id = agent_id
        self.agent_connection_timeout = agent_connection_timeout
        self.agent_heartbeat_timeout = agent_heartbeat_timeout
        self.agent_heartbeat_interval = agent_heartbeat_interval
        self._site_name = site_name
        self._job_id = job_id
        self._redis_url = redis_url
        self._settings = settings or LinkSettings()
        self._client = client
        #: The engine of the run, which makes contexts; None outside of one.
        self._engine: Any = None
        self._shared: SharedConnection | None = None
        self._link: CJLink | None = None
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
            PreflightError: Redis is not fit to hold tasks.
            ServerError: Redis refuses this user.
        """
        if self._link is not None:
            logger.warning("%r was started before; this start has no effect", self)
            return
        if not self.agent_id or not self._site_name:
            raise ConfigError(f"site_name and agent_id are needed, but are {self._site_name!r} and {self.agent_id!r}")
        fqcn = agent_site_fqcn(self._site_name, self.agent_id, self._job_id)
        shared = SharedConnection.acquire(self._redis_url, self._settings.connection, self._client)
        session = Session(
            shared.server,
            fqcn,
            "cj",
            self._settings,
            lambda keys: shared.preflight(self._settings.allow_eviction, keys),
        )
        liveness = Liveness(self.agent_connection_timeout, self.agent_heartbeat_timeout)
        link = CJLink(session, liveness, self._on_news, interval=self.agent_heartbeat_interval)
        self._done = ""
        try:
            session.open_connection()
        except Unavailable as exc:
            logger.warning("%s cannot reach Redis, trying again: %s", session.label, exc)
        except BaseException:
            session.drop_connection()
            shared.release()
            raise
        self._shared, self._link = shared, link
        shared.heartbeats.add(link)
        logger.info("%s started at %s", session.label, shared.server.url)

    def stop(self) -> None:
        """Abort the task in progress, say bye to the agent, and close. A stop without a start has no effect.

        A signal handler that breaks into ``run`` or ``execute`` may call it: they then close at their end. In a forked
        child it only forgets what belongs to the parent.
        """
        shared, link = self._shared, self._link
        if shared is None or link is None:
            return
        if shared.pid != os.getpid():
            self._shared = self._link = None
            return
        self._done = self._done or "the client job was stopped"
        link.session.nudge()
        if self._worker == threading.get_ident():
            self._stop_owed = True
            return
        with self._busy:
            if self._link is not link:
                return
            self._stop_owed = False
            shared.heartbeats.remove(link)
            link.close(bye=True)
            link.session.drop_connection()
            self._shared = self._link = None
        shared.release()
        logger.info("%s stopped", link.session.label)

    @property
    def fqcn(self) -> str:
        """Name of the agent this exchanger works with; "" before the start."""
        return self._link.session.keys.fqcn if self._link else ""

    @property
    def agent_connected(self) -> bool:
        """Whether a heartbeat of the agent came within the connection timeout."""
        return self._link is not None and self._link.peer is Peer.CONNECTED

    # -- one task at a time --------------------------------------------------------------------------------------------

    def abort(self, reason: str = "abort was called") -> None:
        """From any thread: abort the task in progress, if there is one."""
        aborts, link = self._aborts, self._link
        if aborts is not None and link is not None:
            aborts.append(reason)
            link.session.nudge()

    def _begin(self) -> bool:
        """Be busy from now on; False when a task is in progress."""
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
        task_name: str,
        task: AgentTask,
        aborted: Callable[[], str],
        deadline: float | None = None,
        poll_interval: float | None = None,
    ) -> ExchangeOutcome:
        """Hand a task to the agent and wait for its end; the caller has begun."""
        link = self._link
        if link is None:
            raise RuntimeError(f"{self!r} is not started; call start() or use it as a context manager")
        aborts = self._aborts
        return link.exchange(
            task.task_id,
            task_name,
            task.meta,
            task.data,
            give_up=lambda: self._done or (aborts[0] if aborts else aborted()),
            deadline=deadline,
            poll_interval=poll_interval,
            encoded_result=task.encoded_result,
        )

    # -- the executor --------------------------------------------------------------------------------------------------

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Begin at START_RUN, and say bye at END_RUN; a start that fails makes the job panic."""
        if event_type == EventType.START_RUN:
            self._engine = fl_ctx.get_engine()
            try:
                self._prepare(fl_ctx)
                self.start()
            except RedflareError as exc:
                component: Any = self
                component.system_panic(reason=str(exc), fl_ctx=fl_ctx)
        elif event_type == EventType.END_RUN:
            self.stop()

    @abstractmethod
    def _prepare(self, fl_ctx: FLContext) -> None:
        """Take from the context of a run that begins what no argument has said."""

    def _meta_of(self, dxo: Any, shareable: Shareable) -> dict[str, Any]:
        """Make the meta of the agent's task of a Shareable and its DXO."""
        return task_meta(dxo, shareable)

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        """Hand a task to the agent and wait, without a limit, for its result.

        Returns:
            the result as a DXO's Shareable, or a reply with a return code: BAD_REQUEST_DATA when a task is in progress
            or the agent cannot read this one, BAD_TASK_DATA when there is no DXO in it or it cannot be sent,
            EXECUTION_EXCEPTION when the result is not one, TASK_ABORTED, or the agent's own.
            BLOB_MISSING: the task came encoded and its chunks are gone; it stays open until it is sent with others.
        """
        if not self._begin():
            why = f"task {task_name!r} came while another is in progress"
            return self._failed(ReturnCode.BAD_REQUEST_DATA, why, fl_ctx)
        try:
            if self._link is None or self._done or abort_signal.triggered:
                return self._make_reply(ReturnCode.TASK_ABORTED)
            try:
                dxo = self._dxo_of(shareable)
            except Exception as exc:
                return self._failed(ReturnCode.BAD_TASK_DATA, f"task {task_name!r} holds no DXO: {exc}", fl_ctx)
            task = AgentTask(
                task_id=shareable.get_header(ReservedHeaderKey.TASK_ID) or token_hex(16),
                meta=self._meta_of(dxo, shareable),
                data=to_plain(dxo.data_kind, {} if dxo.data is None else dxo.data, type(dxo)),
                encoded_result=self.encoded_results or isinstance(dxo.data, EncodedPayload),
            )
            try:
                outcome = self._exchange_until_aborted(task_name, task, abort_signal)
            except EncodeError as exc:
                why = f"task {task_name!r} {task.task_id} cannot be sent: {exc}"
                return self._failed(ReturnCode.BAD_TASK_DATA, why, fl_ctx)
            except RedflareError as exc:
                why = f"task {task_name!r} {task.task_id} failed: {exc}"
                return self._failed(ReturnCode.EXECUTION_EXCEPTION, why, fl_ctx)
            return self._reply(outcome, dxo, task_name, fl_ctx)
        finally:
            self._end()

    def _exchange_until_aborted(self, task_name: str, task: AgentTask, abort_signal: Any) -> ExchangeOutcome:
        """``_exchange`` without a deadline, given up when the signal is triggered.

        Args:
            abort_signal: ours wakes at once; one of NVFlare's own, which cannot, is polled twice a second.
        """
        link = self._link
        can_wake = link is not None and hasattr(abort_signal, "add_callback")
        with abort_signal.add_callback(link.session.nudge) if link is not None and can_wake else nullcontext():
            return self._exchange(
                task_name,
                task,
                lambda: "the job was aborted" if abort_signal.triggered else "",
                poll_interval=None if can_wake else _SIGNAL_POLL_SECONDS,
            )

    def _reply(self, outcome: ExchangeOutcome, dxo: Any, task_name: str, fl_ctx: FLContext) -> Shareable:
        component: Any = self
        if problem := problem_of(outcome):
            component.log_error(fl_ctx, f"task {task_name!r}: {problem}")
        elif outcome.status != ACCEPTED:
            component.log_info(fl_ctx, f"task {task_name!r} is aborted: {outcome.reason}")
        try:
            return reply_of(outcome, dxo, self._make_reply)
        except ValueError as exc:
            why = f"task {task_name!r}: the agent's result is no DXO: {exc}"
            return self._failed(ReturnCode.EXECUTION_EXCEPTION, why, fl_ctx)

    def _failed(self, code: str, why: str, fl_ctx: FLContext) -> Shareable:
        """Log why there is no result, and reply with it."""
        component: Any = self
        component.log_error(fl_ctx, why)
        return self._make_reply(code, {ReservedHeaderKey.ERROR: why[:LONGEST_REASON]})

    # -- what the heartbeat thread learns ------------------------------------------------------------------------------

    def _on_news(self) -> None:
        link = self._link
        if link is None or self._done:
            return
        session = link.session
        if session.fenced:
            self._done = "another client job has taken over this agent"
        elif link.peer is Peer.GONE:
            self._done = f"agent {session.keys.fqcn} is gone: no heartbeat for {link.liveness.silence:.0f} s"
        if self._done:
            logger.error("%s: %s", session.label, self._done)
            session.nudge()
        # last: whoever hears of it may wait for the task in progress to end, or fail
        if self._done and not session.fenced and self._engine is not None:
            component: Any = self
            with self._engine.new_context() as fl_ctx:
                component.system_panic(reason=self._done, fl_ctx=fl_ctx)

    def __repr__(self) -> str:
        state = f"done ({self._done})" if self._done else "running" if self._link else "new"
        return f"<{type(self).__name__} {self._site_name}/{self.agent_id} {state}>"
