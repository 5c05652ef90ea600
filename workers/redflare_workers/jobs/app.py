"""The objects that an app's config describes, for ``ServerJob`` and ``ClientJob``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..apis.executor import Executor
from ..apis.filter import Filter
from ..workflow.controller import Controller
from .components import ComponentBuilder


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerApp:
    """What runs at the server."""

    #: by id, in the order in which they run
    controllers: dict[str, Controller]
    #: further components by id
    components: dict[str, object]
    task_filters: list[Filter]
    result_filters: list[Filter]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientApp:
    """What runs at a site: ``ClientJob(site, app.executors, task_filters=app.task_filters, ...)``."""

    #: by task name or pattern; ``"*"`` is for all others
    executors: dict[str, Executor]
    components: dict[str, object]
    task_filters: list[Filter]
    result_filters: list[Filter]


def build_server_app(
    app_dir: str | os.PathLike[str], builder: ComponentBuilder, *, variables: Mapping[str, Any] | None = None
) -> ServerApp:
    """Build what ``config/config_fed_server`` of a deployed app describes.

    Args:
        app_dir: folder with ``config`` and perhaps ``custom``, which is put on ``sys.path`` if ``builder`` admits it.
        variables: what ``{JOB_ID}``, ``{SITE_NAME}`` and ``{WORKSPACE}`` in the config stand for.

    Raises:
        JobProblems: everything that is wrong with it; ``unsafe``: it asks for what is not admitted.
    """
    raise NotImplementedError


def build_client_app(
    app_dir: str | os.PathLike[str], builder: ComponentBuilder, *, variables: Mapping[str, Any] | None = None
) -> ClientApp:
    """As ``build_server_app``, for ``config/config_fed_client`` of a site."""
    raise NotImplementedError
