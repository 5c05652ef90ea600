"""``TaskFilter``: restricts a filter to some tasks."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

from redflare_workers.apis.filter import Filter
from redflare_workers.apis.fl_constant import FLContextKey
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.shareable import Shareable


class TaskFilter(Filter):
    """Passes data of its tasks (names, or patterns with ``*``) to a filter, and returns all other data unchanged."""

    def __init__(self, inner: Filter, tasks: Sequence[str]) -> None:
        super().__init__()
        self.inner = inner
        self.tasks = tuple(tasks)

    @property
    def name(self) -> str:
        return self.inner.name

    def process(self, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
        task = fl_ctx.get_prop(FLContextKey.TASK_NAME) or ""
        if any(fnmatch.fnmatchcase(task, pattern) for pattern in self.tasks):
            return self.inner.process(shareable, fl_ctx)
        return shareable

    def __repr__(self) -> str:
        return f"<TaskFilter {self.inner!r} for {', '.join(self.tasks)}>"
