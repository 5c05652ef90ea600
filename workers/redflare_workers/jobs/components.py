"""Components by class path: what is admitted is imported and built, everything else is refused before it is imported."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from .app_config import AppConfig
from .problems import Problem

#: What of redflare may be named in a job: its components, and nothing that starts processes or opens connections.
SHIPPED: Final = ("redflare_workers.apis.*", "redflare_workers.exchanger.*", "redflare_workers.workflow.*")


class ComponentBuilder:
    """Builds what a config describes.

    Args:
        allow: class paths that are admitted, with ``*`` for anything: ``"mylib.executors.*"``.
        allow_custom: code of a job's ``custom`` folder is admitted too.
    """

    def __init__(self, allow: Iterable[str] = SHIPPED, *, allow_custom: bool = False) -> None:
        self.allow = tuple(allow)
        self.allow_custom = allow_custom

    def check(self, app: AppConfig) -> list[Problem]:
        """All that is wrong with an app's components, without importing or building any that does not ship."""
        raise NotImplementedError

    def build(self, data: Mapping[str, Any], *, components: Mapping[str, object] | None = None) -> Any:
        """Build ``{path | class_path | name, args}``.

        Args:
            components: what ``{"component_id": "..."}`` in args stands for.

        Raises:
            JobProblems: it is not admitted, cannot be imported, or its constructor raised.
        """
        raise NotImplementedError
