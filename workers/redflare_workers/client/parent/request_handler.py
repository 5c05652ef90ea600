"""``SiteRequestHandler``: answers what the server's parent process asks of a site, a few requests at once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from redflare_broker.cell.cell import EARLY, LATER, Cell, HandlerResult, ReplyCode, Request
from redflare_broker.errors import ConfigError
from redflare_broker.fqcn import check_job_id

from redflare_workers.apis.fl_constant import ReturnCode
from redflare_workers.protocol.job_control import JobStatus
from redflare_workers.protocol.message import Message, refuse, register
from redflare_workers.protocol.parent_messages import (
    AbortProof,
    AbortRequest,
    DeleteRunsRequest,
    DeployRequest,
    SiteReply,
    StartReply,
    StartRequest,
)

if TYPE_CHECKING:
    from .client_engine import ClientEngine

logger = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)


@dataclass(slots=True, eq=False)
class SiteRequestHandler:
    """The requests of channel ``site``."""

    #: does what is asked
    engine: ClientEngine
    #: how many requests are worked on at once; one that waits for a process to end is not counted
    workers: int
    _pool: ThreadPoolExecutor | None = field(default=None, init=False)

    def open(self, cell: Cell) -> None:
        """Register at a cell."""
        self._pool = ThreadPoolExecutor(self.workers, thread_name_prefix=f"redflare-site-{cell.fqcn}")
        self._queue(cell, DeployRequest, self._deploy)
        self._queue(cell, StartRequest, self._start)
        self._queue(cell, DeleteRunsRequest, self._delete_runs)
        # these two wait for nothing, and must not wait for the others
        register(cell, AbortRequest, self._abort, sender=self._server)
        register(cell, JobStatus, self._job_status, sender=self._process_of)

    def close(self) -> None:
        """Begin no further request; those that wait are left to the next client parent. May be called again."""
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
            return EARLY

        register(cell, message, submit, sender=self._server)

    def _server(self, _message: Message) -> str:
        return self.engine.server_name

    def _process_of(self, message: JobStatus) -> str:
        """Return the FQCN of the process of a job at this site."""
        return f"{self.engine.client_name}.{message.job}"

    @property
    def _head(self) -> str:
        """The head of this site's audit log."""
        return str(self.engine.processes.audit.head or "")

    # -- requests ------------------------------------------------------------------------------------------------------

    def _deploy(self, message: DeployRequest, request: Request) -> HandlerResult:
        engine = self.engine
        error = engine.deploy_app(
            message.app, message.job, message.meta, engine.client_name, request.data, server_head=message.audit
        )
        return _answer(SiteReply(message=error or f"Deployed the app of job {message.job}.", audit=self._head))

    def _start(self, message: StartRequest, _request: Request) -> HandlerResult:
        text = self.engine.start_app(message.job)
        run = self.engine.processes.find(message.job)
        return _answer(StartReply(message=text, run=run.record.run if run else "", audit=self._head))

    def _abort(self, message: AbortRequest, request: Request) -> HandlerResult:
        try:
            check_job_id(message.job)
        except ConfigError as error:
            return refuse(request, error)
        text, proof = self.engine.begin_abort(message.job, message.reason, bar=True)
        proof.add_done_callback(partial(self._send_proof, request, text))
        return LATER

    def _send_proof(self, request: Request, message: str, proof: Future[AbortProof]) -> None:
        request.reply(ReplyCode.OK, replace(proof.result(), message=message, audit=self._head).to_meta())

    def _delete_runs(self, message: DeleteRunsRequest, request: Request) -> HandlerResult:
        try:
            done = self.engine.delete_runs(message.jobs)
        except ConfigError as error:
            return refuse(request, error)
        return _answer(SiteReply(message="\n".join(sorted(done)) or "There is nothing to delete."))

    def _job_status(self, message: JobStatus, _request: Request) -> HandlerResult:
        self.engine.notify_job_status(message.job, message.status, message.run)
        return None


def _answer(reply: SiteReply) -> HandlerResult:
    if reply.message.startswith("ERROR"):
        return ReturnCode.ERROR, {"error": reply.message, **reply.to_meta()}, None
    return ReplyCode.OK, reply.to_meta(), None
