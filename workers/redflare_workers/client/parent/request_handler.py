"""``SiteRequestHandler``: answers what the server's parent process asks of a site, a few requests at once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from redflare_broker.cell.cell import LATER, Cell, HandlerResult, ReplyCode, Request
from redflare_broker.errors import ConfigError
from redflare_broker.fqcn import check_job_id

from redflare_workers.apis.fl_constant import ReturnCode
from redflare_workers.protocol.job_control import JobStatus
from redflare_workers.protocol.message import Fields, Message, refuse, register
from redflare_workers.protocol.parent_messages import (
    AbortProof,
    AbortRequest,
    AbortTaskRequest,
    AllRunsReply,
    DeleteRunRequest,
    DeployRequest,
    RunInfoReply,
    RunInfoRequest,
    SiteReply,
    StartReply,
    StartRequest,
    ToJobRequest,
)

if TYPE_CHECKING:
    from .client_engine import ClientEngine

logger = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)


class SiteRequestHandler:
    """The requests of channel ``site``.

    Args:
        engine: does what is asked.
        workers: how many requests are worked on at once; one that waits for a process to end is not counted.
    """

    def __init__(self, engine: ClientEngine, workers: int) -> None:
        self._engine = engine
        self._workers = workers
        self._pool: ThreadPoolExecutor | None = None

    def open(self, cell: Cell) -> None:
        """Register at a cell."""
        self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix=f"redflare-site-{cell.fqcn}")
        self._queue(cell, DeployRequest, self._deploy)
        self._queue(cell, StartRequest, self._start)
        self._queue(cell, AbortTaskRequest, self._abort_task)
        self._queue(cell, DeleteRunRequest, self._delete_run)
        self._queue(cell, RunInfoRequest, self._run_info)
        self._queue(cell, ToJobRequest, self._to_job)
        # these two wait for nothing, and must not wait for the others
        register(cell, AbortRequest, self._abort)
        register(cell, JobStatus, self._job_status)

    def close(self) -> None:
        """Begin no further request; those that wait are left to the next client parent. Again is allowed."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _queue(self, cell: Cell, message: type[M], handler: Callable[[M, Request], HandlerResult]) -> None:
        """Register a handler that runs in a thread of the pool."""

        def submit(decoded: M, request: Request) -> HandlerResult:
            assert self._pool is not None
            try:
                self._pool.submit(request.reply_from, partial(handler, decoded))
            except RuntimeError:
                logger.debug("%r came too late: this client parent is being stopped", request)
            return LATER

        register(cell, message, submit)

    # -- requests ------------------------------------------------------------------------------------------------------

    def _deploy(self, message: DeployRequest, request: Request) -> HandlerResult:
        engine = self._engine
        error = engine.deploy_app(message.app, message.job, message.meta, engine.client_name, request.data)
        return _answer(SiteReply(message=error or f"Deployed the app of job {message.job}."))

    def _start(self, message: StartRequest, _request: Request) -> HandlerResult:
        text = self._engine.start_app(message.job)
        record = self._engine.run_records().get(message.job)
        return _answer(StartReply(message=text, run=record.run if record else ""))

    def _abort(self, message: AbortRequest, request: Request) -> HandlerResult:
        try:
            check_job_id(message.job)
        except ConfigError as error:
            return refuse(request, error)
        text, proof = self._engine.begin_abort(message.job, message.reason, bar=True)
        proof.add_done_callback(partial(_send_proof, request, text))
        return LATER

    def _abort_task(self, message: AbortTaskRequest, _request: Request) -> HandlerResult:
        return _ok(self._engine.abort_current_task(message.job, message.reason))

    def _delete_run(self, message: DeleteRunRequest, _request: Request) -> HandlerResult:
        return _answer(SiteReply(message=self._engine.delete_run(message.job)))

    def _run_info(self, message: RunInfoRequest, _request: Request) -> HandlerResult:
        if message.job is None:
            runs = {job: record.summary() for job, record in self._engine.run_records().items()}
            return _ok(AllRunsReply(jobs=runs))
        info = self._engine.get_current_run_info(message.job)
        return _ok(RunInfoReply(status=info.status.label, task=info.current_task_name, started=info.start_time))

    def _to_job(self, message: ToJobRequest, request: Request) -> HandlerResult:
        meta, timeout = dict(message.meta or {}), float(message.timeout)
        reply = self._engine.pass_to_job(message.job, message.channel, message.topic, meta, request.data, timeout)
        return reply.rc, reply.meta, reply.data

    def _job_status(self, message: JobStatus, _request: Request) -> HandlerResult:
        self._engine.notify_job_status(message.job, message.status, message.run)
        return None


def _ok(reply: Fields) -> HandlerResult:
    return ReplyCode.OK, reply.to_meta(), None


def _answer(reply: SiteReply) -> HandlerResult:
    if reply.message.startswith("ERROR"):
        return ReturnCode.ERROR, {"error": reply.message, **reply.to_meta()}, None
    return _ok(reply)


def _send_proof(request: Request, message: str, proof: Future[AbortProof]) -> None:
    request.reply(ReplyCode.OK, replace(proof.result(), message=message).to_meta())
