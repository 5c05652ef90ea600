"""``ClientJob``: a site's part in one job. It asks the server for tasks, has executors run them, and submits results.

``run`` blocks until the job ends. It survives a server that restarts and a Redis that is away or has lost its data. If
the process itself dies, the next one of the same name gets the same client task; an agent that has worked on it
meanwhile is not asked twice.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from redflare_broker.config.settings import LinkSettings, load_workspace
from redflare_broker.errors import BlobMissing, ConfigError, DecodeError, Fenced, Unavailable
from redflare_broker.fqcn import FQCN
from redflare_broker.scripts.script import BLOB_MISSING
from redflare_broker.util.own_calls import OwnCalls

from redflare_workers.apis.event_type import EventType
from redflare_workers.apis.executor import Executor
from redflare_workers.apis.filter import Filter
from redflare_workers.apis.fl_constant import FLContextKey, ReturnCode
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.shareable import ReservedHeaderKey, Shareable, make_reply
from redflare_workers.apis.signal import Signal
from redflare_workers.client.shared.cell_host import CellHost
from redflare_workers.client.shared.membership import Membership
from redflare_workers.engine.panic_listener import PanicListener
from redflare_workers.engine.peer_props import peer_context, sendable_props
from redflare_workers.protocol.job_messages import JobEndEvent, ServerEvent, TaskReply
from redflare_workers.protocol.job_outcome import FAILED, FENCED, STOPPED, TAKEN_OVER, JobOutcome, ended_with
from redflare_workers.protocol.shareable_codec import decoded, encoded_data, is_encoded_whole

from .job_engine import ClientJobEngine
from .server_requests import ServerRequests, Submitted
from .task_runner import ANY_TASK, TaskRunner

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _TaskInHand:
    """A task that is worked on."""

    name: str
    task_id: str
    #: Its result is not wanted any more.
    ended: Signal
    #: Its work must stop: because it has ended, or this site aborts it.
    abort: Signal
    #: Its work has stopped.
    over: threading.Event = field(default_factory=threading.Event)


class ClientJob:
    """A site's part in a job; ``run`` it, once.

    Args:
        site_name: name of the site; a newer process of that name takes its place.
        executors: run the tasks: one for all, or by task name or pattern, ``"*"`` for all others.
        redis_url: any form of ``redflare_broker.transport.url``.
        job_id: the job to take part in.
        server_name: first part of the FQCN of the server's cell.
        task_filters: process a task before it is run.
        result_filters: process a result before it is submitted.
        components: further components by id. They hear events, and so do those in arguments of all that takes part.
        job_meta: the job's meta; executors find ``agent_id`` in it.
        props: public properties of this site, which controllers see in the peer context.
        workspace_dir: folder with ``comm_config.json`` and ``startup/``.
        secure_mode: ``startup/rootCA.pem`` must be there.
        settings: instead of those in the workspace.
        client: a redis-py or fakeredis client to use instead of the URL.
        host: share this process's connection and cell with other sites; then URL, settings and client are the host's.
    """

    def __init__(
        self,
        site_name: str,
        executors: Executor | Mapping[str, Executor],
        *,
        redis_url: str = "",
        job_id: str = "job",
        server_name: str = "server",
        task_filters: Sequence[Filter] = (),
        result_filters: Sequence[Filter] = (),
        components: Mapping[str, object] | None = None,
        job_meta: Mapping[str, Any] | None = None,
        props: Mapping[str, Any] | None = None,
        workspace_dir: str | Path = ".",
        secure_mode: bool = False,
        settings: LinkSettings | None = None,
        client: Any = None,
        host: CellHost | None = None,
    ) -> None:
        by_name = {ANY_TASK: executors} if isinstance(executors, Executor) else dict(executors)
        parts: dict[str, object] = {f"executor:{name}": executor for name, executor in by_name.items()}
        parts |= {f"filter:{n}": each for n, each in enumerate([*task_filters, *result_filters])}
        parts |= dict(components or {})
        if host is None:
            own = settings or load_workspace(workspace_dir, secure_mode)
            self._host = CellHost(
                site_name, job_id, redis_url=redis_url, server_name=server_name, settings=own, client=client
            )
        else:
            self._host = host
        self.site_name = site_name
        self.job_id = job_id
        self.engine = ClientJobEngine(
            site_name, job_id, job_meta or {}, parts, server_name, self._host.cell_of, workspace_dir
        )
        self._own_host = host is None
        self._server_name = server_name
        self._props = dict(props or {})
        self._runner = TaskRunner(by_name, task_filters, result_filters)
        #: Set at the end, so that no pause between attempts goes on.
        self._over = threading.Event()
        self._guard = threading.Lock()
        self._own_calls = OwnCalls()
        #: How the job has ended for this site; None while it runs.
        self._outcome: JobOutcome | None = None
        self._task: _TaskInHand | None = None
        #: Tasks that ended before their reply was read.
        self._ended_early: dict[str, None] = {}

    # -- life ----------------------------------------------------------------------------------------------------------

    def run(self) -> JobOutcome:
        """Take part until the job ends, or ``stop``.

        Raises:
            ConfigError: a ValueError; a name, the URL or a setting is wrong.
            PreflightError: Redis is not fit.
            ServerError: Redis refuses this user.
        """
        with self._own_calls.entered():
            return self._run()

    def _run(self) -> JobOutcome:
        try:
            if self._own_host:
                self._host.start()
            self._join_in()
        except Fenced:
            self._end(TAKEN_OVER)
        except (Unavailable, ConfigError):
            # the cell is stopped while this thread waits in it, when this site's part ends
            if self._outcome is None:
                raise
        finally:
            if self._own_host:
                self._host.stop()
        assert self._outcome is not None
        logger.info("%s: %s", self, self._outcome)
        return self._outcome

    def _join_in(self) -> None:
        host, server_cell = self._host, FQCN.join([self._server_name, self.job_id])
        membership = Membership(host, server_cell, self.site_name, self._props, self._on_news)
        server = ServerRequests(host, server_cell, membership, self._over, self._give_up, self._end)
        host.add_site(self.site_name, server_cell, self._on_event, lambda: self._end(TAKEN_OVER))
        messenger = self.engine.messenger
        try:
            messenger.open(host.cell, host.switchboard, listen=False)
            self._take_part(membership, server)
        finally:
            messenger.close()
            host.remove_site(self.site_name)
            membership.leave()

    def stop(self, reason: str = "it was stopped") -> None:
        """End this site's part from any thread or a signal handler, also in the middle of a task."""
        end = partial(self._end, JobOutcome(status=STOPPED, reason=reason))
        self._own_calls.run(end, f"redflare-end-{self.site_name}")

    @property
    def current_task(self) -> str:
        """Name of the task in hand; "" if there is none."""
        task = self._task
        return task.name if task else ""

    def abort_task(self, reason: str, timeout: float) -> tuple[str, bool]:
        """Abort the task in hand, from another thread: the server gets TASK_ABORTED, and the job goes on.

        Returns:
            name of the task, "" if there is none; and whether its work has stopped within ``timeout`` seconds.
        """
        task = self._task
        if task is None:
            return "", True
        logger.info("%s: task %s %r is aborted: %s", self, task.task_id, task.name, reason)
        task.abort.trigger(reason)
        self._host.nudge()
        return task.name, task.over.wait(timeout)

    def _take_part(self, membership: Membership, server: ServerRequests) -> None:
        self.engine.add_component("panics", PanicListener(self._on_panic))
        membership.join(self._given_up)
        started = False
        try:
            # also for a job that ended while this site was away: its agent may still work for it, and must hear of that
            if self._outcome is None or self._outcome.status not in (FENCED, STOPPED):
                started = True
                self.engine.make_app_dir()
                self._fire(EventType.ABOUT_TO_START_RUN)
                self._fire(EventType.START_RUN)
                # all components have registered their handlers
                self.engine.messenger.listen()
            while not self._given_up():
                assigned = server.get_task()
                if assigned is not None:
                    self._work_on(server, *assigned)
        finally:
            if started:
                self._fire(EventType.ABOUT_TO_END_RUN)
                self._fire(EventType.END_RUN)

    def _fire(self, event_type: str) -> None:
        with self.engine.new_context() as fl_ctx:
            self.engine.fire_event(event_type, fl_ctx)

    def _given_up(self) -> str:
        """Why this site takes part no longer; "" while it does."""
        return self._outcome.reason or self._outcome.status if self._outcome else ""

    def _give_up(self) -> str:
        """Why the request that waits now is not wanted any more; "" while it is."""
        return self._given_up() or ("the task has ended" if self._task and self._task.ended.triggered else "")

    def _end(self, outcome: JobOutcome) -> None:
        with self._guard:
            if self._outcome is not None:
                return
            self._outcome = outcome
            task = self._task
        self.engine.abort_signal.trigger(outcome.reason)
        if task is not None:
            task.ended.trigger(outcome.reason)
        self._over.set()
        if self._own_host:
            self._host.give_up()
        self._host.nudge()

    # -- one task ------------------------------------------------------------------------------------------------------

    def _work_on(self, server: ServerRequests, task: TaskReply, data: Shareable) -> None:
        logger.debug("%s: task %s %r begins", self, task.task_id, task.task_name)
        ended = Signal(parent=self.engine.abort_signal)
        in_hand = _TaskInHand(name=task.task_name, task_id=task.task_id, ended=ended, abort=Signal(parent=ended))
        with self._guard:
            self._task = in_hand
            early = task.task_id in self._ended_early
            self._ended_early.clear()
        if early:
            ended.trigger("the task has ended at the server")
        try:
            with self.engine.new_context() as fl_ctx:
                fl_ctx.set_peer_context(peer_context(task.props, self._server_name, self.job_id))
                result = self._carry_out(task, data, fl_ctx, in_hand.abort)
                in_hand.over.set()
                if result is None:
                    server.report_lost(task.task_id, data)
                    return
                if in_hand.abort.triggered and encoded_data(result) is not None:
                    self._runner.release_result(task.task_name, handed_over=False)
                if in_hand.abort.triggered and not ended.triggered:
                    # without a result the server would hand it out again
                    result = make_reply(ReturnCode.TASK_ABORTED)
                if not ended.triggered:
                    self._submit(server, task, result, fl_ctx)
        finally:
            in_hand.over.set()
            with self._guard:
                self._task = None

    def _carry_out(self, task: TaskReply, data: Shareable, fl_ctx: FLContext, abort: Signal) -> Shareable | None:
        """Run the task; return its result, None if its payload is gone."""
        data.set_header(ReservedHeaderKey.TASK_NAME, task.task_name)
        data.set_header(ReservedHeaderKey.TASK_ID, task.task_id)
        if not self._runner.passes_encoded(task.task_name) or is_encoded_whole(data):
            host = self._host
            try:
                data = decoded(data, host.server, host.settings.limits, stop=lambda: bool(self._given_up()))
            except BlobMissing as error:
                self._log_lost(task, str(error))
                return None
            except DecodeError as error:
                logger.error("%s: task %s %r cannot be read: %s", self, task.task_id, task.task_name, error)
                return make_reply(ReturnCode.BAD_TASK_DATA)
        result = self._runner.run(task.task_name, task.task_id, data, fl_ctx, abort)
        if result.get_return_code() == BLOB_MISSING:
            self._log_lost(task, "its agent did not find it")
            return None
        return result

    def _log_lost(self, task: TaskReply, why: str) -> None:
        logger.warning(
            "%s: the payload of task %s %r is gone, asking for it again: %s", self, task.task_id, task.task_name, why
        )

    def _submit(self, server: ServerRequests, task: TaskReply, result: Shareable, fl_ctx: FLContext) -> None:
        fl_ctx.set_prop(FLContextKey.TASK_RESULT, result, private=True, sticky=False)
        self.engine.fire_event(EventType.BEFORE_SEND_TASK_RESULT, fl_ctx)
        passed_on, submitted = encoded_data(result) is not None, Submitted.GIVEN_UP
        try:
            submitted = server.submit(task, result, sendable_props(fl_ctx))
        finally:
            if passed_on:
                self._runner.release_result(task.task_name, handed_over=submitted is Submitted.DONE)
        # a result whose payload is lost is worked out again, or read again from an agent that still has it
        if submitted is not Submitted.PAYLOAD_LOST:
            self.engine.fire_event(EventType.AFTER_SEND_TASK_RESULT, fl_ctx)

    # -- news ----------------------------------------------------------------------------------------------------------

    def _on_event(self, event: ServerEvent) -> None:
        """Handle an event of the server, in a thread of the cell."""
        if isinstance(event, JobEndEvent):
            self._end(ended_with(event.reason))
            return
        with self._guard:
            task = self._task
            # the reply that hands a task out may still be on its way
            self._ended_early.update(dict.fromkeys(event.task_ids))
            if task is None or task.task_id not in self._ended_early:
                return
        logger.info("%s: task %s has ended at the server", self, task.task_id)
        task.ended.trigger("the task has ended at the server")
        self._host.nudge()

    def _on_panic(self, reason: str) -> None:
        logger.error("%s: panic: %s", self, reason)
        self._end(JobOutcome(status=FAILED, reason=reason))

    def _on_news(self, membership: Membership) -> None:
        """Check the membership after a heartbeat."""
        if membership.fenced:
            self._end(TAKEN_OVER)
        elif membership.ended is not None:
            self._end(ended_with(membership.ended))

    def __repr__(self) -> str:
        return f"<ClientJob {self.site_name} of {self.job_id}>"
