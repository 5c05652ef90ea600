"""``SiteRequestHandler``: answers what the server's parent process asks of a site, a few requests at once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from redflare_broker.cell.cell import LATER, Cell, HandlerResult, ReplyCode, Request
from redflare_broker.errors import BlobMissing, ConfigError

from redflare_workers.apis.fl_constant import ReturnCode
from redflare_workers.protocol.parent_messages import (
    ABORT,
    ABORT_TASK,
    DELETE_RUN,
    DEPLOY,
    JOB_STATUS,
    RUN_INFO,
    SITE,
    START,
    TO_JOB,
)
from redflare_workers.workspace.run_folder import check_job_id

from .site_run import AbortProof, RunRecord

if TYPE_CHECKING:
    from .client_engine import ClientEngine

logger = logging.getLogger(__name__)

#: Seconds that a message passed on to a job waits for its reply, if it does not say so.
_TIMEOUT: Final = 30.0


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
        handlers: dict[str, Callable[[Request], HandlerResult]] = {
            DEPLOY: self._deploy,
            START: self._start,
            ABORT_TASK: self._abort_task,
            DELETE_RUN: self._delete_run,
            RUN_INFO: self._run_info,
            TO_JOB: self._to_job,
        }
        for topic, handler in handlers.items():
            cell.register_request_cb(SITE, topic, partial(self._queue, handler))
        # these two wait for nothing, and must not wait for the others
        cell.register_request_cb(SITE, ABORT, self._abort)
        cell.register_request_cb(SITE, JOB_STATUS, self._job_status)

    def close(self) -> None:
        """Begin nothing more; what waits is left to the next client parent. Again is allowed."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _queue(self, handler: Callable[[Request], HandlerResult], request: Request) -> HandlerResult:
        assert self._pool is not None
        try:
            self._pool.submit(self._work, handler, request)
        except RuntimeError:
            logger.debug("%r came too late", request)
        return LATER

    def _work(self, handler: Callable[[Request], HandlerResult], request: Request) -> None:
        try:
            said = handler(request)
            if said is not LATER:
                request.reply(*(said or ()))
        except BlobMissing as error:
            request.reply(ReplyCode.BLOB_MISSING, {"error": str(error)})
        except _Wrong as error:
            logger.warning("%r is refused: %s", request, error)
            request.reply(ReturnCode.BAD_REQUEST_DATA, {"error": str(error)})
        except Exception as error:
            logger.exception("%r could not be dealt with", request)
            request.reply(ReplyCode.HANDLER_EXCEPTION, {"error": f"{type(error).__name__}: {error}"[:2000]})

    # -- requests ------------------------------------------------------------------------------------------------------

    def _deploy(self, request: Request) -> HandlerResult:
        engine, job = self._engine, _text(request, "job")
        meta = request.meta.get("meta")
        error = engine.deploy_app(_text(request, "app"), job, meta, engine.client_name, request.data)  # type: ignore[arg-type]
        return _answer(error or f"Deployed the app of job {job}.")

    def _start(self, request: Request) -> HandlerResult:
        job = _text(request, "job")
        message = self._engine.start_app(job)
        run = self._engine.processes.find(job)
        return _answer(message, run=run.record.run if run else "")

    def _abort(self, request: Request) -> HandlerResult:
        reason = request.meta.get("reason")
        try:
            job = check_job_id(request.meta.get("job"))  # type: ignore[arg-type]
        except (ConfigError, TypeError) as error:
            return ReturnCode.BAD_REQUEST_DATA, {"error": str(error)}, None
        message, asked = self._engine.begin_abort(job, str(reason or "the server wants it"), bar=True)
        asked.add_done_callback(partial(_tell_proof, request, message))
        return LATER

    def _abort_task(self, request: Request) -> HandlerResult:
        proof = self._engine.abort_current_task(_text(request, "job"), str(request.meta.get("reason") or "abort"))
        return ReturnCode.OK, asdict(proof), None

    def _delete_run(self, request: Request) -> HandlerResult:
        return _answer(self._engine.delete_run(_text(request, "job")))

    def _run_info(self, request: Request) -> HandlerResult:
        if "job" not in request.meta:
            jobs = {job: _told(record) for job, record in self._engine.processes.records().items()}
            return ReturnCode.OK, {"jobs": jobs}, None
        info = self._engine.get_current_run_info(_text(request, "job"))
        meta = {"status": info.status.label, "task": info.current_task_name, "started": info.start_time}
        return ReturnCode.OK, meta, None

    def _to_job(self, request: Request) -> HandlerResult:
        meta, timeout = request.meta.get("meta"), request.meta.get("timeout", _TIMEOUT)
        if not isinstance(meta, dict | None) or isinstance(timeout, bool) or not isinstance(timeout, int | float):
            raise _Wrong("meta must be a dict, and timeout a number of seconds")
        job, channel, topic = (_text(request, key) for key in ("job", "channel", "topic"))
        reply = self._engine.pass_to_job(job, channel, topic, meta or {}, request.data, float(timeout))
        return reply.rc, reply.meta, reply.data

    def _job_status(self, request: Request) -> HandlerResult:
        job, run, status = (request.meta.get(key) for key in ("job", "run", "status"))
        if isinstance(job, str) and isinstance(run, str) and isinstance(status, int):
            self._engine.processes.note_status(job, status, run)
        return None


class _Wrong(ValueError):
    """A request that makes no sense."""


def _text(request: Request, key: str) -> str:
    value = request.meta.get(key)
    if not isinstance(value, str) or not value:
        raise _Wrong(f"{key} must be a text, but is {value!r:.100}")
    return value


def _answer(message: str, **more: Any) -> HandlerResult:
    if message.startswith("ERROR"):
        return ReturnCode.ERROR, {"error": message, "message": message, **more}, None
    return ReturnCode.OK, {"message": message, **more}, None


def _told(record: RunRecord) -> dict[str, Any]:
    return {
        "run": record.run,
        "status": record.status.label,
        "exit_code": record.exit_code,
        "reason": record.reason,
        "how": record.how,
    }


def _tell_proof(request: Request, message: str, asked: Future[AbortProof]) -> None:
    request.reply(ReturnCode.OK, {**asdict(asked.result()), "message": message})
