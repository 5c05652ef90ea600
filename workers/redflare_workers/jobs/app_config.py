"""What an app consists of: ``config_fed_server`` and ``config_fed_client`` as NVFlare's users write them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from .problems import Problem

#: File names without their suffix.
SERVER_CONFIG: Final = "config_fed_server"
CLIENT_CONFIG: Final = "config_fed_client"


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentSpec:
    """One component that a config describes."""

    #: where it stands: ``workflows[0]``
    key: str
    #: as it is written: path | class_path | name, args
    data: Mapping[str, Any]
    #: what others know it by
    id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorSpec:
    """An executor, and the tasks it is for."""

    key: str
    tasks: tuple[str, ...]
    executor: ComponentSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterSpec:
    """A chain of filters, and the tasks it is for."""

    key: str
    tasks: tuple[str, ...]
    #: "in", "out" or "inout", as the side sees it that has the filter
    direction: str
    filters: tuple[ComponentSpec, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SideConfig:
    """What one config file says."""

    #: its path in the job
    file: str
    #: the server's; none at a site
    workflows: tuple[ComponentSpec, ...] = ()
    #: a site's; none at the server
    executors: tuple[ExecutorSpec, ...] = ()
    components: tuple[ComponentSpec, ...] = ()
    task_data_filters: tuple[FilterSpec, ...] = ()
    task_result_filters: tuple[FilterSpec, ...] = ()
    #: top-level values, for ``{name}``
    variables: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class AppConfig:
    """One app folder of a job."""

    name: str
    server: SideConfig | None = None
    client: SideConfig | None = None
    #: top-level modules of its ``custom`` folder
    custom_modules: frozenset[str] = frozenset()
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
