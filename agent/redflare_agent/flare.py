"""``receive`` and ``send``: a script written for NVFlare's Client API moves by its import.

>>> import redflare_agent.flare as flare

``docs/nvflare.md`` describes how ``init`` finds the link, and the differences.
"""

from __future__ import annotations

import atexit
import logging
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from redflare_broker.config.settings import LinkSettings

from .api_context import (
    CONTROL_RANK,
    EVALUATE_TASK,
    SUBMIT_MODEL_TASK,
    TRAIN_TASK,
    APIContext,
    find_address,
    open_agent,
)
from .errors import CallStateError
from .fl_model import FLModel, ModelLike, ParamsType

__all__ = [
    "APIContext",
    "FLModel",
    "ParamsType",
    "clear",
    "get_config",
    "get_context",
    "get_job_id",
    "get_site_name",
    "get_task_name",
    "init",
    "is_evaluate",
    "is_running",
    "is_submit_model",
    "is_train",
    "receive",
    "send",
    "shutdown",
    "system_info",
]

logger = logging.getLogger(__name__)


class _Contexts:
    """The contexts of this process; calls that name none use the one that was made last."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.known: dict[tuple[str, str], APIContext] = {}
        self.default: APIContext | None = None


_contexts: Final = _Contexts()


def init(
    rank: str | int | None = None,
    config_file: str | Path | None = None,
    *,
    redis_url: str | None = None,
    site_name: str | None = None,
    agent_id: str | None = None,
    job_id: str | None = None,
    workspace_dir: str | Path | None = None,
    secure_mode: bool | None = None,
    flare_site_heartbeat_timeout: float | None = None,
    settings: LinkSettings | None = None,
    client: Any = None,
) -> APIContext:
    """Start this process's agent; a second call with the same rank and file gives the same context and warns.

    Args:
        rank: of this process in a distributed training; only 0 has a link. None: 0.
        config_file: a ``redflare.json``, in whose folder ``comm_config.json`` and ``startup/`` may be; None: the one in
            ``workspace_dir``, or in the current folder.
        redis_url, site_name, agent_id, job_id, secure_mode: instead of the file's values.
        workspace_dir, flare_site_heartbeat_timeout, settings, client: as of ``IPCAgent``.

    Raises:
        ConfigError: a ValueError; a name or the URL is missing or wrong.
        ValueError: ``rank`` is neither int nor str.
        PreflightError, ServerError: as ``IPCAgent.start``.
    """
    if isinstance(rank, bool) or not isinstance(rank, str | int | None):
        raise ValueError(f"rank must be a str or an int, but got {type(rank).__name__}")
    rank = CONTROL_RANK if rank is None else str(rank)
    key = (rank, str(config_file or ""))
    with _contexts.lock:
        if key in _contexts.known:
            logger.warning("init was called before for rank %s and config_file %s: no effect", rank, config_file)
            return _contexts.known[key]
        arguments = {
            "redis_url": redis_url,
            "site_name": site_name,
            "agent_id": agent_id,
            "job_id": job_id,
            "workspace_dir": workspace_dir,
            "secure_mode": secure_mode,
            "flare_site_heartbeat_timeout": flare_site_heartbeat_timeout,
            "settings": settings,
            "client": client,
        }
        if rank == CONTROL_RANK:
            context = APIContext(*open_agent(config_file, arguments))
        else:
            context = APIContext(None, find_address(config_file, arguments)[0])
        _contexts.known[key] = _contexts.default = context
        return context


def get_context(ctx: APIContext | None = None) -> APIContext:
    """Return ``ctx``, or the context of the last ``init``.

    Raises:
        RuntimeError: there is none.
    """
    found = ctx or _contexts.default
    if found is None:
        raise RuntimeError("no agent yet; call flare.init() first")
    return found


def receive(timeout: float | None = None, ctx: APIContext | None = None) -> FLModel | None:
    """Wait for the model of the current task; None on timeout or when the job has ended."""
    return get_context(ctx).receive(timeout)


def send(model: ModelLike, clear_cache: bool = True, ctx: APIContext | None = None) -> None:
    """Answer the current task with a model, an ``FLModel`` from here or from NVFlare; see ``APIContext.send``.

    Raises:
        TypeError: not an FLModel.
        RuntimeError: nothing was received, the model is empty, or the result was rejected.
    """
    if not isinstance(model, ModelLike):
        raise TypeError(f"model must be an FLModel, but got {type(model).__name__}")
    get_context(ctx).send(model, clear_cache)


def is_running(ctx: APIContext | None = None) -> bool:
    """Wait for a model; False when the job has ended."""
    return get_context(ctx).is_running()


def get_task_name(ctx: APIContext | None = None) -> str:
    """Name of the task whose model was received last."""
    return get_context(ctx).get_task_name()


def is_train(ctx: APIContext | None = None) -> bool:
    """Whether the current task is called "train"."""
    return get_task_name(ctx) == TRAIN_TASK


def is_evaluate(ctx: APIContext | None = None) -> bool:
    """Whether the current task is called "validate"."""
    return get_task_name(ctx) == EVALUATE_TASK


def is_submit_model(ctx: APIContext | None = None) -> bool:
    """Whether the current task is called "submit_model"."""
    return get_task_name(ctx) == SUBMIT_MODEL_TASK


def system_info(ctx: APIContext | None = None) -> dict[str, Any]:
    """``site_name``, known from ``init`` on, and ``job_id``, which is "" before the first model of a job names it."""
    return get_context(ctx).system_info()


def get_config(ctx: APIContext | None = None) -> dict[str, Any]:
    """Return the settings of the link, without the URL, which may hold a password."""
    return get_context(ctx).get_config()


def get_job_id(ctx: APIContext | None = None) -> str:
    """Id of the job that the last model came from; "" when its meta has none."""
    return str(system_info(ctx).get("job_id", ""))


def get_site_name(ctx: APIContext | None = None) -> str:
    """Name of this site."""
    return str(system_info(ctx).get("site_name", ""))


def clear(ctx: APIContext | None = None) -> None:
    """Forget the received model."""
    get_context(ctx).clear()


def shutdown(ctx: APIContext | None = None) -> None:
    """Stop the agent; ``init`` may be called again."""
    context = get_context(ctx)
    with _contexts.lock:
        _contexts.known = {key: known for key, known in _contexts.known.items() if known is not context}
        if _contexts.default is context:
            _contexts.default = None
    context.shutdown()


@atexit.register
def _shutdown_all() -> None:
    """Say bye for a script that ends without ``shutdown``."""
    # an exception that nobody has caught has ended the script
    failed = isinstance(getattr(sys, "last_value", None), Exception)
    for context in list(_contexts.known.values()):
        with suppress(CallStateError):  # a forked child, to which the agent does not belong
            context.shutdown(failed=failed)
