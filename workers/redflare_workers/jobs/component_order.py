"""The order in which the components of a config are built, and the type that each must have."""

from __future__ import annotations

from collections.abc import Iterator

from redflare_workers.apis.executor import Executor
from redflare_workers.apis.filter import Filter
from redflare_workers.workflow.controller import Controller

from .app_config import ComponentSpec, SideConfig


def specs_of(side: SideConfig) -> Iterator[tuple[type, ComponentSpec]]:
    """Iterate over all components of a config with their types; each may refer to those before it."""
    for spec in side.components:
        yield object, spec
    for spec in side.workflows:
        yield Controller, spec
    for executor in side.executors:
        yield Executor, executor.executor
    for chain in (*side.task_data_filters, *side.task_result_filters):
        for spec in chain.filters:
            yield Filter, spec
