"""``config_fed_server`` and ``config_fed_client`` of an app, in NVFlare's format."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from redflare_broker.util.did_you_mean import did_you_mean

from redflare_workers.apis.executor import Executor
from redflare_workers.apis.filter import Filter
from redflare_workers.workflow.controller import Controller

from .problems import Problem, ProblemReader, listed
from .variables import substitute

#: File names without their suffix.
SERVER_CONFIG: Final = "config_fed_server"
CLIENT_CONFIG: Final = "config_fed_client"

_FORMAT_VERSION: Final = 2
_FILTERS: Final = ("task_data_filters", "task_result_filters")
_COMPONENT_KEYS: Final = frozenset({"id", "path", "class_path", "name", "args", "config_type", "disabled"})
_DIRECTIONS: Final = ("in", "out", "inout")
_ALL_KEYS: Final = frozenset({"format_version", "workflows", "executors", "components", *_FILTERS, "server", "client"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentSpec:
    """One component that a config describes."""

    #: its key in the file: ``workflows[0]``
    key: str
    #: as written: path | class_path | name, args
    data: Mapping[str, Any]
    #: other components refer to it by this; may be ""
    id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorSpec:
    """An executor, and the tasks it is for."""

    tasks: tuple[str, ...]
    executor: ComponentSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterSpec:
    """A chain of filters, and the tasks it is for."""

    tasks: tuple[str, ...]
    filters: tuple[ComponentSpec, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SideConfig:
    """The components of one config file."""

    #: its path in the job
    file: str
    #: the server's; none at a site
    workflows: tuple[ComponentSpec, ...] = ()
    #: a site's; none at the server
    executors: tuple[ExecutorSpec, ...] = ()
    components: tuple[ComponentSpec, ...] = ()
    task_data_filters: tuple[FilterSpec, ...] = ()
    task_result_filters: tuple[FilterSpec, ...] = ()

    @property
    def agents(self) -> list[str]:
        """The agents of a site that arguments of its components name: ``agent_id``."""
        return sorted({agent for _, spec in self.specs() for agent in _agents_in(spec.data)})

    def specs(self) -> Iterator[tuple[type, ComponentSpec]]:
        """Iterate over all components in the order in which they are built, with the types that they must have.

        Each may refer to those before it.
        """
        for spec in self.components:
            yield object, spec
        for spec in self.workflows:
            yield Controller, spec
        for executor in self.executors:
            yield Executor, executor.executor
        for chain in (*self.task_data_filters, *self.task_result_filters):
            for spec in chain.filters:
                yield Filter, spec


def _agents_in(data: object) -> Iterator[str]:
    """Yield the values of ``agent_id`` in the arguments of a component, and of those inside them."""
    if isinstance(data, list):
        for each in data:
            yield from _agents_in(each)
    elif isinstance(data, Mapping):
        for key, value in data.items():
            if key == "agent_id" and isinstance(value, str):
                yield value
            else:
                yield from _agents_in(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class AppConfig:
    """One app folder of a job."""

    name: str
    server: SideConfig | None = None
    client: SideConfig | None = None
    #: Python files below ``custom``, by path from there
    custom: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def sides(self) -> tuple[SideConfig, ...]:
        """The config of the server, of the sites, or both."""
        return tuple(side for side in (self.server, self.client) if side is not None)


def parse_side(
    data: dict[str, Any], file: str, *, server: bool, variables: Mapping[str, Any] | None = None
) -> tuple[SideConfig, list[Problem], list[Problem]]:
    """Read a config file, with ``variables`` as in ``substitute``.

    Returns:
        its valid components; all errors; and warnings about keys that have no effect.
    """
    tree, problems = substitute(data, file, variables)
    reader = _SideReader(tree, file, server)
    reader.check_top()
    side = SideConfig(
        file=file,
        workflows=reader.components("workflows") if server else (),
        executors=() if server else reader.executors(),
        components=reader.components("components", need_id=True),
        task_data_filters=reader.filters("task_data_filters", "out" if server else "in"),
        task_result_filters=reader.filters("task_result_filters", "in" if server else "out"),
    )
    reader.check_ids(side)
    if not (problems or reader.problems or side.workflows or side.executors):
        reader.problems.append(Problem(file, reader.main, "are all disabled; there is nothing to run"))
    return side, problems + reader.problems, reader.warnings


class _SideReader(ProblemReader):
    """Reads one section after the other."""

    def __init__(self, tree: dict[str, Any], file: str, server: bool) -> None:
        super().__init__(file)
        self.tree = tree
        self.main = "workflows" if server else "executors"
        self.warnings: list[Problem] = []

    def check_top(self) -> None:
        version = self.tree.get("format_version")
        if isinstance(version, bool) or version != _FORMAT_VERSION:
            self._add("format_version", f"must be {_FORMAT_VERSION}, but is {version!r}")
        known = _ALL_KEYS - ({"workflows", "executors"} - {self.main})
        for key, value in self.tree.items():
            if key in known or not isinstance(value, dict | list) or key.startswith("_"):
                continue
            if hint := did_you_mean(key, known):
                self._add(key, f"is not known{hint}")
            else:
                self.warnings.append(Problem(self.file, key, "is not known here and has no effect"))
        if self.main not in self.tree:
            self._add(self.main, "is missing; without any there is nothing to run")

    def components(self, section: str, *, need_id: bool = False) -> tuple[ComponentSpec, ...]:
        """Read a section of components."""
        found = [
            self._component(entry, f"{section}[{place}]", need_id=need_id)
            for place, entry in enumerate(self._list(section, needed=section == self.main))
        ]
        return tuple(spec for spec in found if spec is not None)

    def executors(self) -> tuple[ExecutorSpec, ...]:
        """Read the executors of a site; each task has one."""
        found: list[ExecutorSpec] = []
        taken: set[str] = set()
        for place, entry in enumerate(self._list("executors", needed=True)):
            key = f"executors[{place}]"
            if not self._is_dict(entry, key, {"tasks", "executor"}):
                continue
            tasks = self._tasks(entry, key)
            if doubled := taken & set(tasks):
                self._add(f"{key}.tasks", f"{listed(doubled)} has an executor already")
            taken |= set(tasks)
            spec = self._component(entry.get("executor"), f"{key}.executor")
            if spec is not None:
                found.append(ExecutorSpec(tasks=tasks, executor=spec))
        return tuple(found)

    def filters(self, section: str, effective: str) -> tuple[FilterSpec, ...]:
        """Read the chains of a section of filters."""
        found: list[FilterSpec] = []
        taken: set[str] = set()
        for place, entry in enumerate(self._list(section)):
            key = f"{section}[{place}]"
            if not self._is_dict(entry, key, {"tasks", "filters", "direction"}):
                continue
            tasks = self._tasks(entry, key)
            direction = entry.get("direction", effective)
            if str(direction).lower() not in _DIRECTIONS:
                self._add(f"{key}.direction", f"must be one of {listed(_DIRECTIONS)}, but is {direction!r}")
            elif str(direction).lower() not in (effective, "inout"):
                self._add(f"{key}.direction", f"is {direction!r}, where nothing passes; here it is {effective!r}")
            if doubled := taken & set(tasks):
                self._add(f"{key}.tasks", f"{listed(doubled)} has a chain of filters already")
            taken |= set(tasks)
            entries = entry.get("filters")
            if not isinstance(entries, list) or not entries:
                self._add(f"{key}.filters", f"must be a list of components, but is {entries!r}")
                continue
            specs = [self._component(each, f"{key}.filters[{n}]") for n, each in enumerate(entries)]
            found.append(FilterSpec(tasks=tasks, filters=tuple(spec for spec in specs if spec is not None)))
        return tuple(found)

    def check_ids(self, side: SideConfig) -> None:
        """Report ids that more than one component has."""
        taken: dict[str, str] = {}
        for spec in (*side.components, *side.workflows):
            if spec.id and spec.id in taken:
                self._add(f"{spec.key}.id", f"{spec.id!r} is already the id of {taken[spec.id]}")
            taken.setdefault(spec.id, spec.key)

    def _component(self, entry: Any, key: str, *, need_id: bool = False) -> ComponentSpec | None:
        if not self._is_dict(entry, key, _COMPONENT_KEYS):
            return None
        wrong = len(self.problems)
        name = entry.get("id", "")
        if not isinstance(name, str) or (need_id and not name):
            self._add(f"{key}.id", f"must be a text that others refer to it by, but is {entry.get('id')!r}")
        if not isinstance(entry.get("args") or {}, dict):
            self._add(f"{key}.args", f"must be a dict of arguments by name, but is {entry['args']!r}")
        if not any(word in entry for word in ("path", "class_path", "name")):
            self._add(f"{key}.path", 'is missing; name the class, like "redflare_workers.workflow.FedAvg"')
        if entry.get("disabled") is True or len(self.problems) > wrong:
            return None
        return ComponentSpec(key=key, data=entry, id=name)

    def _tasks(self, entry: Mapping[str, Any], key: str) -> tuple[str, ...]:
        tasks = entry.get("tasks")
        if not isinstance(tasks, list) or not tasks or not all(isinstance(task, str) and task for task in tasks):
            self._add(f"{key}.tasks", f'must be a list of names of tasks, or ["*"] for all, but is {tasks!r}')
            return ()
        return tuple(dict.fromkeys(tasks))

    def _list(self, section: str, *, needed: bool = False) -> list[Any]:
        entries = self.tree.get(section, [])
        if not isinstance(entries, list):
            self._add(section, f"must be a list, but is a {type(entries).__name__}")
            return []
        if needed and section in self.tree and not entries:
            self._add(section, "is empty; without any there is nothing to run")
        return entries

    def _is_dict(self, entry: Any, key: str, known: Collection[str]) -> bool:
        if not isinstance(entry, dict):
            self._add(key, f"must be a dict, but is {entry!r}")
            return False
        for name in entry:
            if name not in known and not name.startswith("_"):
                self._add(f"{key}.{name}", f"is not known here{did_you_mean(name, known)}")
        return True
