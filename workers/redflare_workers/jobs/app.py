"""Build the objects that the config of a deployed app describes, for ``ServerJob`` and ``ClientJob``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redflare_workers.apis.executor import Executor
from redflare_workers.apis.filter import Filter
from redflare_workers.apis.fl_component import FLComponent
from redflare_workers.workflow.controller import Controller

from .app_config import CLIENT_CONFIG, SERVER_CONFIG, FilterSpec, SideConfig, parse_side
from .component_builder import ComponentBuilder, Scope
from .config_file import find_config, load_config
from .custom_code import CustomCode
from .problems import JobProblems, further
from .task_filter import TaskFilter


@dataclass(frozen=True, slots=True, kw_only=True)
class _BuiltApp:
    #: further components by id
    components: dict[str, object]
    #: those that were built for arguments of others, by their place in the config; they hear events too
    inner: dict[str, FLComponent]
    task_filters: list[Filter]
    result_filters: list[Filter]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerApp(_BuiltApp):
    """The objects that run at the server."""

    #: by id, in the order in which they run
    controllers: dict[str, Controller]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientApp(_BuiltApp):
    """The objects that run at a site: ``ClientJob(site, app.executors, task_filters=app.task_filters, ...)``."""

    #: by task name, or a pattern with ``*``
    executors: dict[str, Executor]


def build_server_app(
    app_dir: str | os.PathLike[str], builder: ComponentBuilder, *, variables: Mapping[str, Any] | None = None
) -> ServerApp:
    """Build what ``config/config_fed_server`` of a deployed app describes.

    Args:
        app_dir: folder with ``config`` and perhaps ``custom``, which is put on ``sys.path`` if ``builder`` allows it.
        variables: values of ``{JOB_ID}``, ``{SITE_NAME}`` and ``{WORKSPACE}`` in the config;
            ``{JOB_CUSTOM_DIR}`` and ``{JOB_CONFIG_DIR}`` are known here.

    Raises:
        JobProblems: all that is wrong; ``unsafe``: the app asks for something that is not allowed. If a module or
            a constructor raised, that is its cause.
    """
    app = _App(app_dir, builder, variables, server=True)
    controllers: dict[str, Controller] = {}
    for spec in app.side.workflows:
        name = base = spec.id or type(app.built[spec.key]).__name__
        while name in controllers or name in app.components:
            name = f"{base}-{len(controllers) + 1}"
        controllers[name] = app.built[spec.key]
    return ServerApp(
        controllers=controllers,
        components=app.components,
        inner=app.inner,
        task_filters=app.filters(app.side.task_data_filters),
        result_filters=app.filters(app.side.task_result_filters),
    )


def build_client_app(
    app_dir: str | os.PathLike[str], builder: ComponentBuilder, *, variables: Mapping[str, Any] | None = None
) -> ClientApp:
    """Build what ``config/config_fed_client`` describes, as ``build_server_app`` does."""
    app = _App(app_dir, builder, variables, server=False)
    return ClientApp(
        executors={task: app.built[spec.executor.key] for spec in app.side.executors for task in spec.tasks},
        components=app.components,
        inner=app.inner,
        task_filters=app.filters(app.side.task_data_filters),
        result_filters=app.filters(app.side.task_result_filters),
    )


class _App:
    """One side of a deployed app, with all its components built."""

    def __init__(
        self,
        app_dir: str | os.PathLike[str],
        builder: ComponentBuilder,
        variables: Mapping[str, Any] | None,
        *,
        server: bool,
    ) -> None:
        self.folder = Path(app_dir).resolve()
        self.builder = builder
        custom = self.folder / "custom"
        sources = {path.relative_to(custom).as_posix(): path.read_bytes() for path in sorted(custom.rglob("*.py"))}
        self.custom = CustomCode(sources, folder=custom.resolve())
        self.side = self._read(SERVER_CONFIG if server else CLIENT_CONFIG, variables or {}, server)
        #: by key of the config
        self.built: dict[str, Any] = {}
        self.components: dict[str, object] = {}
        self.inner: dict[str, FLComponent] = {}
        self._build()

    def filters(self, chains: tuple[FilterSpec, ...]) -> list[Filter]:
        """Return the filters of a section; wrap those that are for some tasks only."""
        return [
            built if chain.tasks == ("*",) else TaskFilter(built, chain.tasks)
            for chain in chains
            for built in (self.built[spec.key] for spec in chain.filters)
        ]

    def _read(self, stem: str, variables: Mapping[str, Any], server: bool) -> SideConfig:
        config = self.folder / "config"
        paths = {f"config/{path.name}" for path in config.iterdir()} if config.is_dir() else set()
        file, problems = find_config(f"config/{stem}", paths)
        tree: dict[str, Any] = {}
        if file is not None:
            tree, problems = load_config(file, (self.folder / file).read_bytes())
        self._raise(problems)
        known = {"JOB_CUSTOM_DIR": str(self.custom.folder), "JOB_CONFIG_DIR": str(config), **variables}
        side, problems, _ = parse_side(tree, file or "", server=server, variables=known)
        self._raise([*problems, *further(problems, self.builder.check_side(side, self.custom))])
        return side

    def _build(self) -> None:
        if self.builder.allow_custom:
            self.custom.admit()
        for kind, spec in self.side.specs():
            scope = Scope(
                file=self.side.file,
                key=spec.key,
                custom=self.custom,
                components=dict(self.components),
                kind=kind,
                inner=self.inner,
            )
            built = self.built[spec.key] = self.builder.build_checked(spec.data, scope)
            if kind is object:
                self.components[spec.id] = built

    def _raise(self, problems: list[Any]) -> None:
        if problems:
            raise JobProblems(f"app {self.folder.name} cannot be used", problems)
