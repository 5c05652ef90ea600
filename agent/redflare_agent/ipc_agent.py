"""``IPCAgent``: the trainer's end of the link to its client job (CJ), over Redis.

Three threads meet here. The trainer's thread blocks in ``get_task`` and ``submit_result`` and does all the work; the
heartbeat thread and the subscriber's only learn things (aborted, replaced, the CJ is gone) and wake it. Those two, and
the idle connections, are shared by all agents of a process.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from redflare_broker.config.settings import LinkSettings, load_workspace
from redflare_broker.errors import ConfigError, Fenced, Unavailable
from redflare_broker.fqcn import agent_site_fqcn
from redflare_broker.keys import LinkKeys
from redflare_broker.link.agent_link import AgentLink, ReceivedTask, encode_result
from redflare_broker.link.liveness import Liveness, Peer
from redflare_broker.link.session import Session
from redflare_broker.runtime.shared_connection import SharedConnection
from redflare_broker.runtime.subscriber import Subscription
from redflare_broker.scripts.script import UNKNOWN
from redflare_broker.scripts.task_states import ACCEPTED
from redflare_broker.util.backoff import Backoff
from redflare_broker.util.own_calls import OwnCalls
from redflare_broker.wire.codec import Encoded
from redflare_broker.wire.collection import from_plain, to_plain

from .defs import FlareAgent, MetaKey, Task, TaskResult
from .dxo import DXO
from .errors import AgentClosed, CallStateError

logger = logging.getLogger(__name__)


class IPCAgent(FlareAgent):
    """An agent that takes tasks from the CJ of its site and hands results back; after NVFlare's class of this name.

    Args:
        flare_site_url: Redis URL in any mode: ``redis://``, ``rediss://``, ``unix://``, ``redis+sentinel://``,
            ``redis+cluster://``.
        flare_site_name: name of the site.
        agent_id: name of this agent at the site; with the site's name it makes the FQCN.
        workspace_dir: folder with ``comm_config.json`` and ``startup/`` (certificates); both are optional.
        secure_mode: ``startup/rootCA.pem`` must be there.
        submit_result_timeout: seconds without an answer to a submission after which a result that Redis does not know
            counts as rejected.
        flare_site_connection_timeout: seconds without a heartbeat of the CJ after which it counts as silent.
        flare_site_heartbeat_timeout: seconds without a heartbeat of the CJ until the agent is closed; None: never.
        resend_result_interval: seconds after which a submission is repeated (it counts once).
        job_id: the agent belongs to one job; its FQCN is then ``<site>.<job>.<agent>``.
        last_exit: how the process of this agent before this one has ended, if that is known: it is part of the reason
            when a task is given back because too many agents have died with it.
        settings: instead of those in the workspace.
        client: a redis-py or fakeredis client to use instead of the URL.

    Raises:
        ConfigError: a ValueError; a name, the URL or the workspace is wrong, or ``rootCA.pem`` is missing.
    """

    def __init__(
        self,
        flare_site_url: str,
        flare_site_name: str,
        agent_id: str,
        workspace_dir: str | Path,
        secure_mode: bool = False,
        submit_result_timeout: float = 30.0,
        flare_site_connection_timeout: float = 60.0,
        flare_site_heartbeat_timeout: float | None = None,
        resend_result_interval: float = 2.0,
        *,
        job_id: str | None = None,
        last_exit: str = "",
        settings: LinkSettings | None = None,
        client: Any = None,
    ) -> None:
        self.fqcn = agent_site_fqcn(flare_site_name, agent_id, job_id)
        #: Name of the site.
        self.site_name = flare_site_name
        self._settings = settings or load_workspace(workspace_dir, secure_mode)
        self._submit_result_timeout = submit_result_timeout
        self._resend_result_interval = resend_result_interval
        #: shared with the other agents of this process; one that is dropped without a stop gives its share back, too
        self._shared = SharedConnection.acquire(flare_site_url, self._settings.connection, client)
        self._release = weakref.finalize(self, self._shared.release)
        self._release.atexit = False
        liveness = Liveness(flare_site_connection_timeout, flare_site_heartbeat_timeout)
        self._session = Session(self._shared.server, self.fqcn, "agent", self._settings, self._preflight)
        self._link = AgentLink(
            self._session, liveness, self._shared.heartbeats, self._on_news, self._on_abort, last_exit=last_exit
        )
        self._unsubscribe: Callable[[], None] = lambda: None
        self._pid = os.getpid()
        self._own_calls = OwnCalls()
        #: serialises the trainer's calls
        self._calls = threading.Lock()
        #: guards what the other threads change as well
        #: (re-entrant: a signal handler may call ``stop`` at any point of the trainer's thread)
        self._state = threading.RLock()
        self._current: Task | None = None
        self._fetched_any = False
        self._started = False
        self._stopped = False
        self._closed = ""

    # -- life ----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Connect and take this agent's place; an older instance of the same FQCN is closed from now on.

        If Redis cannot be reached yet, the calls that need it wait for it. A second start warns.

        Raises:
            CallStateError: the agent was stopped; make a new one.
            PreflightError: Redis is not fit to hold tasks; the message says what to change.
            ServerError: Redis refuses this user.
        """
        self._check_process()
        with self._state:
            if self._closed:
                raise CallStateError(f"agent {self.fqcn} was stopped ({self._closed}); make a new one to start again")
            if self._started:
                logger.warning("agent %s was started before; this start has no effect", self.fqcn)
                return
            self._started = True
        with self._own_calls.entered():
            self._open()

    def _open(self) -> None:
        try:
            self._session.open_connection()
        except Unavailable as exc:
            logger.warning("agent %s cannot reach Redis, trying again: %s", self.fqcn, exc)
        except BaseException:
            self._close("its start failed")
            self._session.drop_connection()
            self._release()
            raise
        keys = self._session.keys
        self._shared.heartbeats.add(self._link)
        self._unsubscribe = self._shared.subscribe(
            Subscription([keys.abort, keys.notice], self._link.on_message, self._link.beat_now)
        )
        logger.info("agent %s started at %s", self.fqcn, self._shared.server.url)

    def stop(self) -> None:
        """End this agent: blocked calls return at once, the CJ gets a bye, the current task is left to a successor.

        A signal handler that breaks into a call of this agent may call it: then a thread ends the agent. While an
        exception is on its way, it is like ``fail``. Stop before start warns, and so does a second stop.
        """
        self._end(failed=_is_fault(sys.exception()))

    def fail(self) -> None:
        """Stop because of a fault: the current task counts as one that the agent died with."""
        self._end(failed=True)

    def _end(self, *, failed: bool) -> None:
        self._check_process()
        with self._state:
            again, self._stopped = self._stopped, True
        if again:
            logger.warning("agent %s was stopped before; this stop has no effect", self.fqcn)
            return
        if not self._started:
            logger.warning("agent %s is stopped, but was never started", self.fqcn)
        self._own_calls.run(partial(self._stop, failed), f"redflare-stop-{self.fqcn}")

    def _stop(self, failed: bool) -> None:
        self._close("stop was called")
        # first what could wake anything, then the goodbye, and the connections at last
        self._unsubscribe()
        self._shared.heartbeats.remove(self._link)
        self._link.close(bye=self._started, failed=failed)
        # a call that the trainer's thread is in closes its connection at its end
        if self._calls.acquire(blocking=False):
            try:
                self._session.drop_connection()
            finally:
                self._calls.release()
        self._release()
        logger.info("agent %s stopped", self.fqcn)

    def _close(self, reason: str) -> bool:
        """Mark this agent as closed and wake every call; False when it was closed before."""
        with self._state:
            if self._closed:
                return False
            self._closed = reason
        self._session.nudge()
        self._link.wake_submit()
        return True

    @property
    def closed(self) -> bool:
        """Whether this agent gets no more tasks."""
        return bool(self._closed)

    @property
    def fenced(self) -> bool:
        """Whether this agent was closed because a newer instance has taken over."""
        return self._session.fenced

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise CallStateError(
                f"agent {self.fqcn} belongs to process {self._pid}, but is called in its child {os.getpid()}; "
                "make another agent there, or leave these calls to the parent"
            )

    # -- tasks and results ---------------------------------------------------------------------------------------------

    def get_task(self, timeout: float | None = None) -> Task | None:
        """Wait for the next task of this agent.

        Args:
            timeout: seconds to wait; None: until a task comes or the agent is closed.

        Returns:
            the task, now FETCHED; None on timeout.

        Raises:
            TypeError, ValueError: ``timeout`` is not a number, or not positive.
            CallStateError: the current task's result has not been submitted.
            AgentClosed: the agent is closed; the message says why.
        """
        self._check_process()
        deadline = _deadline(timeout)
        with self._own_calls.entered(), self._calls:
            backoff = Backoff(first=0.1)
            while True:
                self._check_may_fetch()
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                try:
                    received = self._link.next_task(left)
                    backoff.reset()
                except Fenced as exc:
                    self._close(str(exc))
                    continue
                except ConfigError:
                    if not self._closed:
                        raise
                    # stop() in another thread has closed the connections under this call
                    continue
                except Unavailable as exc:
                    level = backoff.level(exc, logging.WARNING)
                    logger.log(level, "agent %s cannot reach Redis, trying again: %s", self.fqcn, exc)
                    self._session.pause(min(backoff.next_delay(), deadline - time.monotonic()))
                    continue
                if received is not None:
                    return self._fetched(received)

    def _check_may_fetch(self) -> None:
        with self._state:
            if self._closed:
                self._session.drop_connection()
                raise AgentClosed(f"agent {self.fqcn} is closed: {self._closed}")
            if not self._started:
                raise CallStateError(f"agent {self.fqcn} is not started; call start() first")
            current = self._current
            if current is None:
                return
            if not current.aborted:
                raise CallStateError(f"task {current} was not answered yet; call submit_result() before get_task()")
            logger.info("agent %s drops aborted task %s", self.fqcn, current)
            self._current = None
        self._link.forget_task()

    def _fetched(self, received: ReceivedTask) -> Task:
        data = from_plain(received.meta.get(MetaKey.DATA_KIND), received.data, DXO)
        task = Task(
            received.task_name, received.task_id, received.meta, data, attempt=received.attempt, site=self.site_name
        )
        task.status = Task.FETCHED
        with self._state:
            self._current = task
            self._fetched_any = True
        logger.info("agent %s has task %s, attempt %s", self.fqcn, task, task.attempt)
        # an abort that came while the task was being read found no current task; the next beat reports it, but late
        if self._link.was_aborted(task.task_id):
            task.aborted = True
        return task

    def submit_result(self, result: TaskResult) -> bool:
        """Hand in the result of the current task, and wait until the CJ has it.

        An agent that was restarted and has fetched nothing may once submit the result of the task that its predecessor
        had in hand.

        Returns:
            True: accepted. False: rejected, aborted, or the agent was closed.

        Raises:
            TypeError: not a TaskResult.
            CallStateError: no task was fetched and none is open, or its result was submitted; the current task stays as
                it is.
            EncodeError: the result holds something that cannot be sent; the current task stays as it is.
            AgentClosed: a newer instance of this agent has taken over.
        """
        self._check_process()
        if not isinstance(result, TaskResult):
            raise TypeError(f"result must be a TaskResult, but got {type(result).__name__}")
        data = to_plain(result.meta.get(MetaKey.DATA_KIND), result.data, DXO)
        encoded = encode_result(result.meta, data, self._settings)
        with self._own_calls.entered(), self._calls:
            if self._closed and not self._session.fenced:
                logger.warning("agent %s is closed (%s): its result is dropped", self.fqcn, self._closed)
                self._session.drop_connection()
                return False
            task = self._to_submit()
            if task is not None and task.aborted:
                self._done(task)
                return False
            status = self._submit(task, result.return_code, encoded)
            if status is None:
                return False
            if task is None and status == UNKNOWN:
                self._fetched_any = False
                raise CallStateError(f"agent {self.fqcn} has fetched no task, and none is open; call get_task() first")
            accepted = status == ACCEPTED
            level = logging.INFO if accepted else logging.WARNING
            logger.log(level, "agent %s: result of %s is %s", self.fqcn, task or "its predecessor's task", status)
            if task is not None:
                task.already_received = task.already_received or accepted
            self._done(task)
            return accepted

    def _submit(self, task: Task | None, rc: str, encoded: Encoded) -> str | None:
        """Hand in an encoded result and return its status; None when ``stop`` in another thread ended the call."""
        try:
            status = self._link.submit(
                task.task_id if task else "",
                task.task_name if task else "",
                rc,
                encoded,
                resend_interval=self._resend_result_interval,
                answer_timeout=self._submit_result_timeout,
                give_up=lambda: bool(self._closed),
                on_send=lambda: _mark_sent(task),
            )
            if not status and self._session.fenced:
                raise Fenced(self._closed)  # the heartbeat thread learned it first
            return status
        except Fenced as exc:
            self._close(str(exc))
            raise AgentClosed(f"agent {self.fqcn} is closed: {exc}") from exc
        except BaseException as exc:
            with self._state:
                if task is None:
                    self._fetched_any = False
                else:
                    task.status = Task.FETCHED
            if isinstance(exc, ConfigError) and self._closed:
                return None  # it has closed the connections under this call
            raise
        finally:
            if self._closed:
                self._session.drop_connection()

    def _to_submit(self) -> Task | None:
        """Return the task to answer; None: the one of this agent's predecessor."""
        with self._state:
            if self._closed:
                raise AgentClosed(f"agent {self.fqcn} is closed: {self._closed}")
            task = self._current
            if task is not None:
                task.status = Task.PROCESSED
                return task
            if self._fetched_any or not self._started:
                raise CallStateError(f"agent {self.fqcn} has no task to answer; call get_task() first")
            self._fetched_any = True
            return None

    def _done(self, task: Task | None) -> None:
        with self._state:
            if task is self._current:
                self._current = None
        self._link.forget_task()

    # -- what the other threads learn ----------------------------------------------------------------------------------

    def _preflight(self, keys: LinkKeys) -> None:
        self._shared.preflight(self._settings.allow_eviction, keys)

    def _on_abort(self, task_id: str) -> None:
        with self._state:
            task = self._current
            if task is None or task.task_id != task_id or task.aborted:
                return
            task.aborted = True
        logger.warning("agent %s: task %s is aborted", self.fqcn, task)

    def _on_news(self) -> None:
        if self._session.fenced:
            self._shared.heartbeats.remove(self._link)
            self._close("a newer instance of this agent has taken over")
        elif self._link.peer is Peer.LEFT:
            self._abandon("the CJ said bye")
        elif self._link.peer is Peer.GONE:
            self._abandon(f"no heartbeat of the CJ for {self._link.liveness.silence:.0f} s")

    def _abandon(self, reason: str) -> None:
        """Close this agent, and abort its task: the CJ is gone for good."""
        if self._close(reason):
            with self._state:
                if self._current is not None:
                    self._current.aborted = True

    def __exit__(self, *exc_info: object) -> None:
        if not self._stopped:  # another thread, or a signal handler, may have stopped it: no reason to warn
            self.stop()

    def __repr__(self) -> str:
        state = f"closed ({self._closed})" if self._closed else "running" if self._started else "new"
        return f"<IPCAgent {self.fqcn} {state}, task {self._current}, CJ {self._link.peer.value}>"


def _deadline(timeout: float | None) -> float:
    if timeout is None:
        return float("inf")
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise TypeError(f"timeout must be int or float, but got {type(timeout).__name__}")
    if timeout <= 0:
        raise ValueError(f"timeout must be > 0, but got {timeout}")
    return time.monotonic() + timeout


def _is_fault(error: BaseException | None) -> bool:
    """Whether a program that meets this exception ends by a fault, and not because it was told to."""
    if isinstance(error, SystemExit):
        return error.code not in (None, 0)
    return isinstance(error, Exception)


def _mark_sent(task: Task | None) -> None:
    if task is not None:
        task.last_send_result_time = time.time()
