"""``Filter``: changes data between a workflow and an executor. After NVFlare's ``Filter``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Final

from .fl_component import FLComponent
from .fl_context import FLContext
from .shareable import Shareable


class ContentBlockedException(Exception):
    """Raised by a filter: the data must not be sent."""


class FilterChainType:
    """Directions of filtered data."""

    TASK_DATA_CHAIN: Final = "task_data"
    TASK_RESULT_CHAIN: Final = "task_result"


class Filter(FLComponent, ABC):
    """One link in a chain of filters."""

    @abstractmethod
    def process(self, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
        """Return the data of a task, or a result, to be sent instead of ``shareable``, or ``shareable`` itself.

        Raises:
            ContentBlockedException: it must not be sent.
        """

    def set_prop(self, key: str, value: Any) -> None:
        """Set one attribute."""
        setattr(self, key, value)

    def get_prop(self, key: str, default: Any = None) -> Any:
        """One attribute, or ``default``."""
        return getattr(self, key, default)
