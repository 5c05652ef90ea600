"""``FedJob``: a job written in Python instead of JSON. After NVFlare's class of this name."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Final, Literal

from redflare_broker.errors import ConfigError
from redflare_broker.fqcn import check_name

from redflare_workers.apis.executor import Executor
from redflare_workers.apis.filter import Filter
from redflare_workers.workflow.controller import Controller

from .class_path import public_path
from .custom_code import sources_of
from .job_folder import JobDefinition, define_job
from .job_meta import ALL_SITES, SERVER

_SECTION: Final = {Filter: "filters", Controller: "workflows", Executor: "executors"}
#: Apps of a job whose sites differ.
_SERVER_APP: Final = "app_server"
_CLIENTS_APP: Final = "app_clients"


@dataclass(frozen=True, slots=True)
class Component:
    """An object as a job describes it: its class, or a function that makes it, and the arguments."""

    cls: Callable[..., Any]
    args: Mapping[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """The class path that a job's JSON gets."""
        return public_path(self.cls)


@dataclass(slots=True)
class _Part:
    """A component for one target."""

    component: Component
    id: str = ""
    tasks: list[str] = field(default_factory=list)
    section: str = "components"


class FedJob:
    """Assign components to the server and sites, then ``export`` a folder, or submit ``archive()``.

    .. code-block:: python

        job = FedJob("means", min_clients=2)
        job.to_server(FedJob.component(FedAvg, initial_model={"w": [0.0]}, min_clients=2, num_rounds=3))
        job.to_clients(FedJob.component(IPCExchanger), tasks=["train"])
        job.export("jobs/means")

    Args:
        min_clients: the job starts when so many of its sites are connected, and ends when fewer are left.
        mandatory_clients: sites without which it neither starts nor continues.
        agent_id: the agent that ``IPCExchanger`` works with.
        resource_spec: by site, or ``"@ALL"``: amounts of the resources it needs.
    """

    def __init__(
        self,
        name: str,
        *,
        min_clients: int = 1,
        mandatory_clients: Sequence[str] = (),
        agent_id: str | None = None,
        resource_spec: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        if isinstance(mandatory_clients, str):
            raise TypeError(f"mandatory_clients must be a list of names, but is the text {mandatory_clients!r}")
        self.name = name
        self._meta: dict[str, Any] = {"name": name, "min_clients": min_clients}
        if mandatory_clients:
            self._meta["mandatory_clients"] = list(mandatory_clients)
        if agent_id is not None:
            self._meta["agent_id"] = agent_id
        if resource_spec:
            self._meta["resource_spec"] = {site: dict(spec) for site, spec in resource_spec.items()}
        self._parts: dict[str, list[_Part]] = {}
        self._custom: list[Path] = []

    @staticmethod
    def component(maker: Callable[..., Any], /, **args: Any) -> Component:
        """Describe an object by its class and the arguments of its constructor, and check the arguments.

        Args:
            maker: a class, or of your own code also a function that makes something.
            args: plain values, and other components.

        Raises:
            TypeError: it is not a class or function that can be named, or does not take these arguments.
        """
        name = getattr(maker, "__qualname__", "")
        if not callable(maker) or not name.isidentifier():
            raise TypeError(f"{maker!r} must be a class or function at the top level of a module")
        if maker.__module__ == "__main__":
            raise TypeError(f"{name} is defined in the program that makes the job; put it in a module")
        try:
            inspect.signature(maker).bind_partial(**args)
        except TypeError as error:
            raise TypeError(f"{name}: {error}") from None
        except ValueError:
            # written in C, without a signature
            pass
        return Component(maker, args)

    # -- putting together ----------------------------------------------------------------------------------------------

    def to(
        self,
        component: Component | type,
        target: str,
        *,
        tasks: Sequence[str] = ("*",),
        id: str = "",
        filter_type: Literal["task_data", "task_result"] = "task_result",
    ) -> None:
        """Have a component run at a target.

        Args:
            component: made by ``component``, or a class that needs no arguments.
            target: ``"server"``, the name of a site, or ``"@ALL"`` for all sites not named in another call.
            tasks: of an executor or a filter.
            id: other components refer to it by this; required unless it is a controller, executor or filter.
            filter_type: whether a filter gets tasks or results.

        Raises:
            TypeError: it is not a component, but for example the object instead of its description.
            ValueError: controllers run at the server and executors at sites; others need an id.
        """
        part = self._part(component, id, list(tasks), filter_type)
        if target != ALL_SITES:
            check_name(target, "target")
        if (part.section == "workflows") != (target == SERVER) and part.section in ("workflows", "executors"):
            where = "the server" if part.section == "workflows" else "sites"
            raise ValueError(f"{part.component.path} is for {where}, but its target is {target!r}")
        self._parts.setdefault(target, []).append(part)

    def to_server(self, component: Component | type, **options: Any) -> None:
        """Have a component run at the server; see ``to``."""
        self.to(component, SERVER, **options)

    def to_clients(self, component: Component | type, **options: Any) -> None:
        """Have a component run at all sites that have no components assigned by name; see ``to``."""
        self.to(component, ALL_SITES, **options)

    def add_custom(self, path: str | os.PathLike[str]) -> None:
        """Add a module or package that components import; the modules of the components are added anyway.

        Raises:
            ConfigError: it is neither.
        """
        source = Path(path)
        if not source.is_dir() and source.suffix != ".py":
            raise ConfigError(f"{source} must be a Python file or the folder of a package")
        self._custom.append(source)

    @staticmethod
    def _part(component: Component | type, id: str, tasks: list[str], filter_type: str) -> _Part:
        described = FedJob.component(component) if inspect.isclass(component) else component
        if not isinstance(described, Component):
            kind = type(described).__name__
            raise TypeError(f"use FedJob.component({kind}, ...) instead of {described!r}: its arguments are needed")
        cls = described.cls
        bases = cls.__mro__ if inspect.isclass(cls) else ()
        section = next((name for base, name in _SECTION.items() if base in bases), "components")
        if section == "components" and not id:
            raise ValueError(f"{described.path} is not a controller, executor or filter: give it an id")
        if section == "filters":
            if filter_type not in ("task_data", "task_result"):
                raise ValueError(f"filter_type must be 'task_data' or 'task_result', but is {filter_type!r}")
            section = f"{filter_type}_filters"
        return _Part(described, id, tasks, section)

    # -- making it -----------------------------------------------------------------------------------------------------

    def definition(self) -> JobDefinition:
        """Check the job and return its definition.

        Raises:
            JobProblems: all its errors.
            TypeError: an argument cannot be written as JSON.
        """
        apps = self._apps()
        files = {"meta.json": _as_json({**self._meta, "deploy_map": {app: [who[-1]] for app, who in apps.items()}})}
        for app, who in apps.items():
            for target in who:
                name = "config_fed_server" if target == SERVER else "config_fed_client"
                config = _config(self._parts[target], server=target == SERVER)
                files[f"{app}/config/{name}.json"] = _as_json(config)
            described = [each for target in who for part in self._parts[target] for each in _within(part.component)]
            for path, data in sources_of([each.cls for each in described], self._custom).items():
                files[f"{app}/custom/{path}"] = data
        return define_job(files, f"job {self.name!r}")

    def archive(self) -> bytes:
        """Return the job as a zip. Raises as ``definition`` does."""
        return self.definition().archive()

    def export(self, folder: str | os.PathLike[str]) -> Path:
        """Write the job as a folder; replace a job that was exported there before.

        Raises:
            ConfigError: the folder holds something else; or the job has errors, as in ``definition``.
        """
        target = Path(folder)
        if target.exists() and not (target / "meta.json").is_file() and (not target.is_dir() or any(target.iterdir())):
            raise ConfigError(f"{target} exists and is not a job; name another folder, or remove it")
        files = self.definition().files
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as temporary:
            fresh = Path(temporary, "new")
            for path, data in files.items():
                (fresh / path).parent.mkdir(parents=True, exist_ok=True)
                (fresh / path).write_bytes(data)
            if target.exists():
                shutil.rmtree(target)
            os.rename(fresh, target)
        return target

    def export_job(self, job_root: str | os.PathLike[str]) -> Path:
        """Export into ``job_root/<name of the job>``, as NVFlare's method of this name does."""
        return self.export(Path(job_root, self.name))

    def _apps(self) -> dict[str, tuple[str, ...]]:
        """Return the targets of each app; in the deploy map the app has the last of them."""
        if set(self._parts) == {SERVER, ALL_SITES}:
            return {"app": (SERVER, ALL_SITES)}
        names = {SERVER: _SERVER_APP, ALL_SITES: _CLIENTS_APP}
        return {names.get(target, f"app_{target}"): (target,) for target in self._parts}

    def __repr__(self) -> str:
        counts = ", ".join(f"{len(parts)} for {target}" for target, parts in self._parts.items())
        return f"<FedJob {self.name}: {counts or 'empty'}>"


def _config(parts: list[_Part], *, server: bool) -> dict[str, Any]:
    """Build the config of the server or of sites."""
    config: dict[str, Any] = {"format_version": 2, ("workflows" if server else "executors"): []}
    for part in parts:
        described = _described(part.component, part.component.path)
        if part.section.endswith("_filters"):
            chains = config.setdefault(part.section, [])
            same = next((chain for chain in chains if chain["tasks"] == part.tasks), None)
            if same is None:
                chains.append(same := {"tasks": part.tasks, "filters": []})
            same["filters"].append(described)
        elif part.section == "executors":
            config["executors"].append({"tasks": part.tasks, "executor": described})
        else:
            config.setdefault(part.section, []).append({**({"id": part.id} if part.id else {}), **described})
    return config


def _described(component: Component, where: str) -> dict[str, Any]:
    args = {name: _plain(value, f"{where}({name}=...)") for name, value in component.args.items()}
    return {"path": component.path, **({"args": args} if args else {})}


def _plain(value: Any, where: str) -> Any:
    """Convert a value to JSON values."""
    if isinstance(value, Component):
        return _described(value, where)
    if isinstance(value, Enum):
        return _plain(value.value, where)
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, list | tuple):
        return [_plain(each, where) for each in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _plain(each, where) for key, each in value.items()}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(
        f"{where} is a {type(value).__name__}, which a job's JSON cannot hold: give plain values, or "
        "FedJob.component(...) of a class or function that makes it"
    )


def _within(component: Component) -> list[Component]:
    """Return a component and those in its arguments."""
    found, todo = [component], list(component.args.values())
    while todo:
        value = todo.pop()
        if isinstance(value, Component):
            found.append(value)
            todo.extend(value.args.values())
        elif isinstance(value, list | tuple):
            todo.extend(value)
        elif isinstance(value, Mapping):
            todo.extend(value.values())
    return found


def _as_json(tree: Mapping[str, Any]) -> bytes:
    return json.dumps(tree, indent=2, allow_nan=False).encode() + b"\n"
