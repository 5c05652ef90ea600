"""``ClientJob``: a site's part in one job. It asks the server for tasks, has executors carry them out, and submits.

``run`` blocks until the job ends. It survives a server that restarts and a Redis that is away or lost its data: its
requests stand in the server's inbox, and what was lost is sent again. If the process itself dies, the next one of the
same name is handed the same client task; an agent that has worked on it meanwhile is not asked twice.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

from redflare_broker.cell.request import Reply, Request
from redflare_broker.config.settings import LinkSettings, load_settings
from redflare_broker.errors import (
    BlobMissing,
    ConfigError,
    DecodeError,
    EncodeError,
    Fenced,
    RedflareError,
    ServerError,
    Unavailable,
)
from redflare_broker.keys import Keys
from redflare_broker.payload import redis_store
from redflare_broker.payload.encoded_payload import EncodedPayload, seal, store
from redflare_broker.scripts.script import BLOB_MISSING
from redflare_broker.wire.message_entry import pack_meta
from redflare_broker.wire.task_entry import BlobRef

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
from redflare_workers.protocol.job_messages import (
    CHANNEL,
    GET_TASK,
    JOB_ENDED,
    NOT_JOINED,
    SUBMIT,
    TASK_ENDED,
    TOLD_ENDED,
    TOLD_FENCED,
)
from redflare_workers.protocol.job_outcome import FAILED, FENCED, STOPPED, JobOutcome, ended_with
from redflare_workers.protocol.shareable_codec import from_message, opened, sealed_in, sealed_whole, to_message
from redflare_workers.util.backoff import Backoff

from .job_engine import ClientJobEngine
from .task_runner import ANY_TASK, TaskRunner

__all__ = ["ClientJob"]

logger = logging.getLogger(__name__)

#: Answers to a submission that bringing it again would not change.
_DROPPED: Final = frozenset({ReturnCode.EXECUTION_EXCEPTION, ReturnCode.BAD_REQUEST_DATA})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Assigned:
    """A task that the server handed out."""

    name: str
    task_id: str
    shareable: Shareable
    #: Public props of the server.
    props: object


@dataclass(frozen=True, slots=True, kw_only=True)
class _TaskInHand:
    """A task that is worked on."""

    name: str
    task_id: str
    #: nobody wants its result any more
    ended: Signal
    #: the work is to be broken off: then too, or because somebody here wants that
    abort: Signal
    #: it is not worked on any more
    over: threading.Event = field(default_factory=threading.Event)


class ClientJob:
    """A site's part in a job; ``run`` it, once.

    Args:
        site_name: name of the site; a newer process of that name takes its place.
        executors: what carries tasks out: one for all, or by task name or pattern, ``"*"`` for all others.
        redis_url: any form of ``redflare_broker.transport.url``.
        job_id: the job to take part in.
        server_name: first part of the FQCN of the server's cell.
        task_filters: what a task goes through before it is carried out.
        result_filters: what a result goes through before it is submitted.
        components: further components by id, which hear events.
        job_meta: what the job says of itself; executors find ``agent_id`` in it.
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
        self.site_name = site_name
        self.job_id = job_id
        self._own_host = host is None
        self._host = host or CellHost(
            site_name,
            job_id,
            redis_url=redis_url,
            settings=settings or load_settings(workspace_dir, secure_mode),
            client=client,
        )
        self._server_name = server_name
        self._server_cell = f"{server_name}.{job_id}"
        self._props = dict(props or {})
        self._runner = TaskRunner(by_name, task_filters, result_filters)
        parts: dict[str, object] = {f"executor:{name}": executor for name, executor in by_name.items()}
        parts |= {f"filter:{n}": each for n, each in enumerate([*task_filters, *result_filters])}
        self.engine = ClientJobEngine(
            site_name,
            job_id,
            job_meta or {},
            {**parts, **dict(components or {})},
            server_name,
            self._host.cell_of,
            workspace_dir,
        )
        #: how the job has ended for this site; None while it goes on
        self._outcome: JobOutcome | None = None
        self._guard = threading.Lock()
        self._task: _TaskInHand | None = None
        #: tasks that ended before their reply was read
        self._ended_early: dict[str, None] = {}
        #: the task whose payload was not found, and that payload
        self._lost: dict[str, str] = {}
        #: rc of the server's last answer
        self._told = ""
        self._backoff = Backoff()

    # -- life ----------------------------------------------------------------------------------------------------------

    def run(self) -> JobOutcome:
        """Take part until the job ends, or ``stop``.

        Raises:
            ConfigError: a ValueError; a name, the URL or a setting is wrong.
            PreflightError: the server is not fit.
            ServerError: the server refuses this user.
        """
        try:
            if self._own_host:
                self._host.start()
            self._run()
        except Fenced:
            self._on_fenced()
        except (Unavailable, ConfigError):
            # the cell is closed under whoever waits in it when this site's part ends
            if self._outcome is None:
                raise
        finally:
            if self._own_host:
                self._host.stop()
        assert self._outcome is not None
        logger.info("%s: %s", self, self._outcome)
        return self._outcome

    def _run(self) -> None:
        membership = Membership(self._host, self._server_cell, self.site_name, self._props, self._on_news)
        self._host.add_site(self.site_name, self._on_event, self._on_fenced)
        messenger = self.engine.messenger
        try:
            messenger.open(self._host.cell, self._host.switchboard, listen=False)
            self._take_part(membership)
        finally:
            messenger.close()
            self._host.remove_site(self.site_name)
            membership.leave()

    def stop(self, reason: str = "it was stopped") -> None:
        """End this site's part from any thread, also in the middle of a task."""
        self._end(JobOutcome(status=STOPPED, reason=reason))

    @property
    def current_task(self) -> str:
        """Name of the task in hand; "": there is none."""
        task = self._task
        return task.name if task else ""

    def abort_task(self, reason: str, timeout: float) -> tuple[str, bool]:
        """Break off the task in hand, from another thread; the server is told TASK_ABORTED, and the job goes on.

        Returns:
            name of the task, "" when there is none; and whether its work was over within ``timeout`` seconds.
        """
        task = self._task
        if task is None:
            return "", True
        logger.info("%s: task %s %r is aborted: %s", self, task.task_id, task.name, reason)
        task.abort.trigger(reason)
        self._host.nudge()
        return task.name, task.over.wait(timeout)

    def _take_part(self, membership: Membership) -> None:
        self.engine.add_component("panics", PanicListener(self._on_panic))
        membership.join(self._given_up)
        started = False
        try:
            # also for a job that ended while this site was away: its agent may still work for it, and must be told
            if self._outcome is None or self._outcome.status not in (FENCED, STOPPED):
                started = True
                self.engine.make_app_dir()
                self._fire(EventType.ABOUT_TO_START_RUN)
                self._fire(EventType.START_RUN)
                # all who register handlers have done so
                self.engine.messenger.listen()
            while not self._given_up():
                assigned = self._get_task(membership)
                if assigned is not None:
                    self._work_on(membership, assigned)
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

    def _end(self, outcome: JobOutcome) -> None:
        with self._guard:
            if self._outcome is not None:
                return
            self._outcome = outcome
            task = self._task
        self.engine.abort_signal.trigger(outcome.reason)
        if task is not None:
            task.ended.trigger(outcome.reason)
        self._backoff.end()
        if self._own_host:
            self._host.give_up()
        self._host.nudge()

    # -- one task ------------------------------------------------------------------------------------------------------

    def _get_task(self, membership: Membership) -> _Assigned | None:
        """Wait for a task; None: look at the flags and ask again."""
        reply = self._request(GET_TASK, membership, self._lost, None)
        if reply is None:
            return None
        self._lost = {}
        try:
            name, task_id = reply.meta["task_name"], reply.meta["task_id"]
            shareable = from_message(reply.meta["message"], reply.encoded)
            return _Assigned(name=name, task_id=task_id, shareable=shareable, props=reply.meta.get("props"))
        except (KeyError, TypeError, DecodeError) as error:
            logger.error("%s: what the server handed out is no task: %r", self, error)
            self._end(JobOutcome(status=FAILED, reason=f"what the server handed out is no task: {error!r}"))
            return None

    def _work_on(self, membership: Membership, task: _Assigned) -> None:
        logger.debug("%s: task %s %r begins", self, task.task_id, task.name)
        ended = Signal(parent=self.engine.abort_signal)
        in_hand = _TaskInHand(name=task.name, task_id=task.task_id, ended=ended, abort=Signal(parent=ended))
        with self._guard:
            self._task = in_hand
            early = task.task_id in self._ended_early
            self._ended_early.clear()
        if early:
            ended.trigger("the task has ended at the server")
        try:
            with self.engine.new_context() as fl_ctx:
                fl_ctx.set_peer_context(peer_context(task.props, self._server_name, self.job_id))
                result = self._carry_out(task, fl_ctx, in_hand.abort)
                in_hand.over.set()
                if result is None:
                    return
                if in_hand.abort.triggered and sealed_in(result) is not None:
                    self._runner.release_result(task.name, handed_over=False)
                if in_hand.abort.triggered and not ended.triggered:
                    # without an answer the server would hand it out again
                    result = make_reply(ReturnCode.TASK_ABORTED)
                if not ended.triggered:
                    self._submit(membership, task, result, fl_ctx)
        finally:
            in_hand.over.set()
            with self._guard:
                self._task = None

    def _carry_out(self, task: _Assigned, fl_ctx: FLContext, abort: Signal) -> Shareable | None:
        """The result; None: the task's payload is gone, ask for it again."""
        shareable = task.shareable
        shareable.set_header(ReservedHeaderKey.TASK_NAME, task.name)
        shareable.set_header(ReservedHeaderKey.TASK_ID, task.task_id)
        if not self._runner.passes_sealed(task.name) or sealed_whole(shareable):
            try:
                shareable = opened(
                    shareable, self._host.server, self._host.settings.limits, stop=lambda: bool(self._given_up())
                )
            except BlobMissing as error:
                self._ask_again(task, str(error))
                return None
            except DecodeError as error:
                logger.error("%s: task %s %r cannot be read: %s", self, task.task_id, task.name, error)
                return make_reply(ReturnCode.BAD_TASK_DATA)
        result = self._runner.run(task.name, task.task_id, shareable, fl_ctx, abort)
        if result.get_return_code() == BLOB_MISSING:
            self._ask_again(task, "its agent did not find it")
            return None
        return result

    def _ask_again(self, task: _Assigned, why: str) -> None:
        logger.warning(
            "%s: what task %s %r carries is gone, it is asked for again: %s", self, task.task_id, task.name, why
        )
        sealed = sealed_in(task.shareable)
        prefix = sealed.blob.prefix if sealed is not None and sealed.blob is not None else ""
        self._lost = {"lost": task.task_id, "payload": prefix}

    def _submit(self, membership: Membership, task: _Assigned, result: Shareable, fl_ctx: FLContext) -> None:
        fl_ctx.set_prop(FLContextKey.TASK_RESULT, result, private=True, sticky=False)
        self.engine.fire_event(EventType.BEFORE_SEND_TASK_RESULT, fl_ctx)
        passed_on = sealed_in(result) is not None
        taken = False
        sealed: EncodedPayload | None = None
        try:
            message, sealed = self._stored(task, result)
            meta = {"task_name": task.name, "task_id": task.task_id, "message": message}
            if props := sendable_props(fl_ctx):
                meta["props"] = props
            while not taken and not self._given_up() and not self._has_ended(task.task_id):
                reply = self._request(SUBMIT, membership, meta, sealed)
                taken = reply is not None or self._told in _DROPPED
                if self._told == BLOB_MISSING:
                    # it is worked out again, or read again from an agent that still has it
                    return
                if reply is not None:
                    logger.debug(
                        "%s: the result of task %s %r: %s", self, task.task_id, task.name, reply.meta.get("verdict")
                    )
        except Unavailable:
            # it was given up while Redis was away
            if not self._given_up() and not self._has_ended(task.task_id):
                raise
        finally:
            if passed_on:
                self._runner.release_result(task.name, handed_over=taken)
            elif not taken and sealed is not None and sealed.blob is not None:
                self._delete(sealed.blob)
        self.engine.fire_event(EventType.AFTER_SEND_TASK_RESULT, fl_ctx)

    def _stored(self, task: _Assigned, result: Shareable) -> tuple[dict[str, Any], EncodedPayload]:
        """The message that carries a result; an answer that says so when it cannot be sent.

        Raises:
            Unavailable: it is not wanted any more, and Redis is away.
        """
        while True:
            try:
                return self._store(task, result)
            except EncodeError as error:
                # an answer too, or the workflow would wait for it for ever
                logger.error("%s: the result of task %s %r cannot be sent: %s", self, task.task_id, task.name, error)
                return self._store(task, make_reply(ReturnCode.EXECUTION_RESULT_ERROR))
            except ServerError as error:
                # it may have room later
                logger.error("%s: the result of task %s %r is refused: %s", self, task.task_id, task.name, error)
                if self._given_up() or self._has_ended(task.task_id):
                    raise Unavailable(str(error)) from error
                self._backoff.wait()

    def _store(self, task: _Assigned, result: Shareable) -> tuple[dict[str, Any], EncodedPayload]:
        """The message that carries a result; a large one is stored now, and is the server's once that answers."""
        host, settings = self._host, self._host.settings
        meta, data = to_message(result)
        pack_meta(meta)
        prefix = Keys(settings.namespace).cell(host.fqcn).blob(token_hex(16))
        ttl_ms = settings.policy.retention_ms
        sealed = seal(data, settings.limits)
        return meta, store(
            host.server,
            sealed,
            prefix,
            settings.limits,
            ttl_ms=ttl_ms,
            stop=lambda: bool(self._given_up()) or self._has_ended(task.task_id),
        )

    def _delete(self, blob: BlobRef) -> None:
        try:
            redis_store.remove(self._host.server, blob, stop=lambda: True)
        except RedflareError as error:
            logger.warning("%s: payload %s is left to expire: %s", self, blob.prefix, error)

    def _has_ended(self, task_id: str) -> bool:
        task = self._task
        return task is not None and task.task_id == task_id and task.ended.triggered

    # -- the server ----------------------------------------------------------------------------------------------------

    def _request(self, topic: str, membership: Membership, meta: dict[str, Any], data: object) -> Reply | None:
        """Ask the server; None: there was no answer to go on with, look at the flags."""
        reply = self._host.cell.send_request(
            CHANNEL,
            topic,
            self._server_cell,
            {**membership.credentials, **meta},
            data,
            timeout=None,
            give_up=lambda: (
                self._given_up() or ("the task has ended" if self._task and self._task.ended.triggered else "")
            ),
        )
        self._told = reply.rc
        if reply.ok:
            self._backoff.reset()
            return reply
        if reply.rc == TOLD_ENDED:
            self._end(ended_with(reply.meta.get("reason")))
        elif reply.rc == TOLD_FENCED:
            self._on_fenced()
        elif not self._given_up() and not (self._task and self._task.ended.triggered):
            if reply.rc == NOT_JOINED:
                membership.join(self._given_up)
            else:
                why = reply.error or reply.meta.get("reason", "")
                logger.warning("%s: %s was answered with %s: %s", self, topic, reply.rc, why)
            # whatever keeps it from being answered may stay for a while
            self._backoff.wait()
        return None

    def _on_fenced(self) -> None:
        self._end(JobOutcome(status=FENCED, reason="a newer process of this site has taken over"))

    def _on_event(self, request: Request) -> None:
        """What the server tells this site; from a thread of the cell."""
        if request.topic == JOB_ENDED:
            self._end(ended_with(request.meta.get("reason")))
        if request.topic != TASK_ENDED:
            return
        ended = request.meta.get("task_ids")
        with self._guard:
            task = self._task
            # the reply that hands a task out may still be on its way
            self._ended_early.update(dict.fromkeys(ended if isinstance(ended, list) else ()))
            if task is None or task.task_id not in self._ended_early:
                return
        logger.info("%s: task %s has ended at the server", self, task.task_id)
        task.ended.trigger("the task has ended at the server")
        self._host.nudge()

    def _on_panic(self, reason: str) -> None:
        logger.error("%s: panic: %s", self, reason)
        self._end(JobOutcome(status=FAILED, reason=reason))

    def _on_news(self, membership: Membership) -> None:
        """What the heartbeat thread learns."""
        if membership.fenced:
            self._on_fenced()
        elif membership.ended is not None:
            self._end(ended_with(membership.ended))

    def __repr__(self) -> str:
        return f"<ClientJob {self.site_name} of {self.job_id}>"
