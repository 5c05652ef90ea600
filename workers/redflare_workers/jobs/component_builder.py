"""Components by class path: checked against what a site allows before they are imported, then built.

A site allows class paths by whole names and by patterns, and may allow code of jobs. A pattern reaches components only:
classes that are ``FLComponent``, and what ``job_component`` marks. So a job's JSON alone can neither start processes
nor write outside the folder of its run, whatever the modules that a pattern matches hold besides their components.
"""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any, Final

from redflare_broker.config.settings import LinkSettings
from redflare_broker.util.did_you_mean import did_you_mean

from redflare_workers.apis.fl_component import FLComponent, is_job_component
from redflare_workers.util.site_defaults import SHIPPED

from .app_config import SideConfig
from .argument_types import wrong_types
from .class_path import OWN, BadPath, allows, class_path_of, is_component, names, reference_of
from .constructor import known_of, misfits, parameters_of, path_arguments
from .custom_code import CustomCode
from .input_files import input_arguments, missing_files
from .problems import JobProblems, Problem, listed
from .source_signature import is_based_on_nothing, source_parameters

#: Arguments of redflare's components that the site sets; a job cannot.
SITE_ARGUMENTS: Final = frozenset({"client", "redis_url", "secure_mode", "settings", "site_name", "workspace_dir"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """The place of a component in a job, and the components it may refer to."""

    file: str = ""
    key: str = ""
    #: the code that the job brings
    custom: CustomCode = field(default_factory=CustomCode)
    #: by id, for ``{"component_id": ...}``; a check uses the ids only
    components: Mapping[str, object] = field(default_factory=dict)
    #: the type it must be an instance of
    kind: type = object
    #: those of the app, by path from its folder; None: they are not looked at
    files: Collection[str] | None = None
    #: it is a component of the server
    server: bool = False
    #: no other component is built before it
    is_first: bool = False
    #: those that were built for arguments, by their place; filled while the component is built
    inner: dict[str, FLComponent] = field(default_factory=dict)

    def at(self, *keys: str | int) -> Scope:
        """Return the scope of a value inside this component, of any kind."""
        key = self.key
        for each in keys:
            key = f"{key}[{each}]" if isinstance(each, int) else f"{key}.{each}".removeprefix(".")
        return Scope(file=self.file, key=key, custom=self.custom, components=self.components, inner=self.inner)

    def problem(self, text: str, *keys: str | int, unsafe: bool = False) -> Problem:
        """Return a problem of this component, or of a value inside it."""
        return Problem(self.file, self.at(*keys).key, text, unsafe)


class ComponentBuilder:
    """Checks and builds the components of a config.

    Args:
        allow: class paths that are allowed. One with ``*`` for anything is a pattern, ``"mylib.executors.*"``, and
            reaches components only. None: all of them; for a check, since each site decides.
        allow_custom: code of a job's ``custom`` folder is allowed too.
        given: values of some of ``SITE_ARGUMENTS``, for the components of redflare that take them.
        folder: folder of the run. Relative paths in arguments of redflare's components start from it; unless
            ``allow_custom``, paths that lead out of it are refused.
        trial: a check calls the constructors of components that ship, which do nothing but look at their arguments, for
            their own checks.
        installed: a check imports the installed modules that are named, too, and looks at the arguments of their
            components. One that cannot be imported here is passed: the sites may have it.
    """

    def __init__(
        self,
        allow: Iterable[str] | None = SHIPPED,
        *,
        allow_custom: bool = False,
        given: Mapping[str, Any] | None = None,
        folder: str | os.PathLike[str] | None = None,
        trial: bool = False,
        installed: bool = False,
    ) -> None:
        if isinstance(allow, str):
            raise TypeError(f"allow must be a list of patterns, but is the text {allow!r}")
        if unknown := set(given or {}) - SITE_ARGUMENTS:
            raise TypeError(f"given may hold {listed(SITE_ARGUMENTS)}, but has {listed(unknown)}")
        self.allow = None if allow is None else tuple(allow)
        self.allow_custom = allow_custom
        self.given = dict(given or {})
        self.folder = None if folder is None else Path(folder).resolve()
        self.trial = trial
        self.installed = installed

    # -- checking ------------------------------------------------------------------------------------------------------

    def check_side(self, side: SideConfig, custom: CustomCode, files: Collection[str] | None = None) -> list[Problem]:
        """Check the components of one config; keep nothing of them, and import nothing but components that ship.

        Args:
            files: of the app, by path from its folder: those that components read must be there. None: not looked at.
        """
        found: list[Problem] = []
        before: dict[str, object] = {}
        for place, (kind, spec) in enumerate(side.specs()):
            scope = Scope(
                file=side.file,
                key=spec.key,
                custom=custom,
                components=before,
                kind=kind,
                files=files,
                server=bool(side.workflows),
                is_first=not place,
            )
            found += self.check_one(spec.data, scope)
            if spec.id:
                before[spec.id] = spec
        return found

    def check_one(self, data: Mapping[str, Any], scope: Scope) -> list[Problem]:
        """Check one component and those in its arguments, as ``check_side`` does."""
        args = data.get("args") or {}
        found = [each for name, value in args.items() for each in self._check_argument(value, scope.at("args", name))]
        try:
            path = class_path_of(data)
        except BadPath as error:
            return [scope.problem(str(error)), *found]
        if refusal := self._refusal(path, scope):
            return [refusal, *found]
        if path.startswith(OWN):
            found += self._check_own(path, args, scope)
        elif scope.custom.holds(path):
            found += _custom_problems(path, args, scope)
        elif self.installed:
            found += self._installed_problems(path, args, scope)
        return found

    def _installed_problems(self, path: str, args: Mapping[str, Any], scope: Scope) -> list[Problem]:
        """Check a component of an installed module; one that cannot be imported here is passed."""
        module, _, name = path.rpartition(".")
        try:
            imported = importlib.import_module(module)
        except (Exception, SystemExit):
            return []
        target = getattr(imported, name, None)
        if target is None:
            return [scope.problem(_no_name(imported, name))]
        if not callable(target):
            return [scope.problem(f"{path} is a {type(target).__name__}, not a class")]
        if text := _wrong_kind(path, target, scope.kind):
            return [scope.problem(text)]
        return self._misfits(target, args, scope, site=())

    def _check_argument(self, value: Any, scope: Scope) -> list[Problem]:
        if isinstance(value, list):
            return [each for n, item in enumerate(value) for each in self._check_argument(item, scope.at(n))]
        if (name := reference_of(value)) is not None:
            if name in scope.components:
                return []
            hint = did_you_mean(str(name), [each for each in scope.components if each])
            return [scope.problem(f"there is no component {name!r} before this one{hint}")]
        return self.check_one(value, scope) if is_component(value) else []

    def _check_own(self, path: str, args: Mapping[str, Any], scope: Scope) -> list[Problem]:
        try:
            target = self._load(path, scope)
        except JobProblems as error:
            return list(error.problems)
        found = self._misfits(target, args, scope, site=SITE_ARGUMENTS)
        is_shipped = allows(SHIPPED, path) and is_job_component(target)
        if self.trial and is_shipped and not found and not any(map(_holds_built, args.values())):
            found += self._tried(target, path, args, scope)
        for name in path_arguments(target) & args.keys():
            if text := self._outside(args[name]):
                found.append(scope.problem(text, "args", name, unsafe=True))
        if scope.files is not None:
            for name in input_arguments(target) & args.keys():
                texts = missing_files(args[name], scope.files, server=scope.server, is_first=scope.is_first)
                found += [scope.problem(text, "args", name) for text in texts]
        return found

    @staticmethod
    def _misfits(
        target: Callable[..., Any], args: Mapping[str, Any], scope: Scope, *, site: Iterable[str]
    ) -> list[Problem]:
        """Compare arguments with those of a constructor, by name and by type."""
        wrong = misfits(target.__name__, parameters_of(target), args, site)
        named = {name for name, _ in wrong}
        wrong += [each for each in wrong_types(target, args, _is_built) if each[0] not in named]
        return [scope.problem(text, "args", *([name] if name else [])) for name, text in wrong]

    @staticmethod
    def _tried(target: Callable[..., Any], path: str, args: Mapping[str, Any], scope: Scope) -> list[Problem]:
        """Call the constructor of a component that ships, and throw away what it makes."""
        try:
            target(**args, **known_of(target, {"settings": LinkSettings()}))
        except Exception as error:
            # its errors begin with the argument that they are about
            name, _, rest = str(error).partition(" ")
            if name in args:
                return [scope.problem(rest, "args", name)]
            return [scope.problem(f"{path} cannot be made: {type(error).__name__}: {error}")]
        return []

    # -- building ------------------------------------------------------------------------------------------------------

    def build(self, data: Mapping[str, Any]) -> Any:
        """Build ``{path | class_path | name, args}``, and first the components in its arguments.

        Raises:
            JobProblems: it is not allowed, cannot be imported, is of the wrong type, or its constructor raised
                (which is the cause).
        """
        scope = Scope()
        if problems := self.check_one(data, scope):
            raise JobProblems("this component cannot be built", problems)
        return self.build_checked(data, scope)

    def build_checked(self, data: Mapping[str, Any], scope: Scope) -> Any:
        """Build a component that ``check_side`` has passed."""
        path = class_path_of(data)
        target = self._load(path, scope)
        args = {name: self._argument(value, scope.at("args", name)) for name, value in (data.get("args") or {}).items()}
        if path.startswith(OWN):
            for name in path_arguments(target) & args.keys():
                args[name] = self._placed(args[name])
            args |= known_of(target, self.given)
        try:
            built = target(**args)
        except (Exception, SystemExit) as error:
            raise self._failed(scope, f"{path} cannot be made: {type(error).__name__}: {error}") from error
        if not isinstance(built, scope.kind):
            raise self._failed(scope, f"{path} made a {type(built).__name__}, not a {scope.kind.__name__}")
        return built

    def _argument(self, value: Any, scope: Scope) -> Any:
        if isinstance(value, list):
            return [self._argument(each, scope.at(place)) for place, each in enumerate(value)]
        if (name := reference_of(value)) is not None:
            return scope.components[name]
        if is_component(value):
            if value.get("disabled") is True:
                return None
            built = self.build_checked(value, scope)
            if isinstance(built, FLComponent):
                scope.inner[scope.key] = built
            return built
        if isinstance(value, dict) and value.get("config_type") == "dict":
            return {key: each for key, each in value.items() if key != "config_type"}
        return value

    # -- the allow-list ----------------------------------------------------------------------------------------------

    def _refusal(self, path: str, scope: Scope) -> Problem | None:
        """Why this may not even be imported; None: it may."""
        if scope.custom.holds(path):
            if self.allow_custom:
                return None
            text = f"{path} is code that the job brings (custom/), which is not allowed here; "
            text += "`allow_custom` in local/site.json of this workspace allows it"
            return scope.problem(text, "path", unsafe=True)
        if self._permits(path):
            return None
        allowed = ", ".join(self.allow or ()) or "nothing"
        text = f"{path} is not allowed here (allowed: {allowed})"
        if path.startswith(OWN):
            text = f"{path} is not a component for jobs (allowed: {allowed})"
        elif not self.allow_custom:
            text += "; extend `allow` in local/site.json of this workspace"
        return scope.problem(text, "path", unsafe=True)

    def _permits(self, path: str, *, by_pattern: bool = True) -> bool:
        """Whether the allow-list has a class path, by its whole name or by a pattern."""
        if self.allow is None or names(self.allow, path):
            return True
        return by_pattern and allows(self.allow, path) and (not path.startswith(OWN) or allows(SHIPPED, path))

    def _load(self, path: str, scope: Scope) -> Callable[..., Any]:
        """Import the class or function of an allowed path, and check that it is what the path promises."""
        module_name, _, name = path.rpartition(".")
        module = self._import(module_name, scope)
        target: Any = getattr(module, name, None)
        if target is None:
            raise self._failed(scope, _no_name(module, name))
        custom = scope.custom.holds(path)
        if custom and not scope.custom.owns(module):
            where = getattr(module, "__file__", None)
            raise self._failed(scope, f"module {module_name} is not the job's, but {where}; rename the job's")
        if not callable(target) or (path.startswith(OWN) and not inspect.isclass(target)):
            raise self._failed(scope, f"{path} is a {type(target).__name__}, not a class")
        if not custom and (text := self._why_not(path, target)):
            raise self._failed(scope, text, unsafe=True)
        if text := _wrong_kind(path, target, scope.kind):
            raise self._failed(scope, text)
        made: Callable[..., Any] = target
        return made

    def _why_not(self, path: str, target: Any) -> str:
        """Why an imported class or function must not be used; "": it may."""
        # a module also has the names that it imports from others
        real = f"{getattr(target, '__module__', '')}.{getattr(target, '__qualname__', path.rpartition('.')[2])}"
        if real.startswith(OWN) and not path.startswith(OWN):
            # by another name it would escape the checks of redflare's own arguments
            return f"{path} is {real}, which is not allowed here by another name"
        if self._permits(path, by_pattern=False):
            return ""
        if not self._permits(real):
            return f"{path} is {real}, which is not allowed here"
        if not is_job_component(target):
            what = "a pattern of the allow-list reaches components only (FLComponent, or marked by job_component)"
            return f"{path} is no component, and {what}; list its whole name in `allow` of local/site.json to allow it"
        return ""

    def _import(self, name: str, scope: Scope) -> ModuleType:
        try:
            return importlib.import_module(name)
        except (Exception, SystemExit) as error:
            if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
                hint = "; put it into the app's custom/ folder, or have it installed at the site"
                raise self._failed(scope, f"there is no module {error.name}{hint}") from error
            text = f"module {name} cannot be imported: {type(error).__name__}: {error}"
            raise self._failed(scope, text) from error

    def _outside(self, value: Any) -> str:
        """Why a path, or a dict of paths, is refused; "": it is not."""
        if isinstance(value, dict):
            return next(filter(None, map(self._outside, value.values())), "")
        if self.allow_custom or not isinstance(value, str):
            return ""
        path = PurePosixPath(value)
        inside = self.folder is not None and Path(self._placed(value)).resolve().is_relative_to(self.folder)
        if inside or (self.folder is None and not path.is_absolute() and ".." not in path.parts):
            return ""
        return f"{value!r} leads out of the folder of the run, which is not allowed here; give a relative path"

    def _placed(self, value: Any) -> Any:
        """Join a path, or each path of a dict, to the folder of the run."""
        if self.folder is None:
            return value
        if isinstance(value, dict):
            return {name: self._placed(each) for name, each in value.items()}
        return str(self.folder / value) if isinstance(value, str) else value

    @staticmethod
    def _failed(scope: Scope, text: str, *, unsafe: bool = False) -> JobProblems:
        return JobProblems("this component cannot be built", [scope.problem(text, unsafe=unsafe)])

    def __repr__(self) -> str:
        return f"ComponentBuilder(allow={self.allow}, allow_custom={self.allow_custom})"


def _is_built(value: Any) -> bool:
    """Whether an argument is another component of the config, or is built from a description."""
    return reference_of(value) is not None or is_component(value)


def _holds_built(value: Any) -> bool:
    return any(map(_holds_built, value)) if isinstance(value, list) else _is_built(value)


def _no_name(module: ModuleType, name: str) -> str:
    hint = did_you_mean(name, [each for each in dir(module) if not each.startswith("_")])
    return f"module {module.__name__} has no {name!r}{hint}"


def _wrong_kind(path: str, target: Callable[..., Any], kind: type) -> str:
    """Why what a class makes cannot be of a type; "": it is, or nobody knows before it is made."""
    if inspect.isclass(target) and not issubclass(target, kind):
        return f"{path} must be of type {kind.__name__}"
    return f"{path} is an abstract class; name a subclass" if inspect.isabstract(target) else ""


def _custom_problems(path: str, args: Mapping[str, Any], scope: Scope) -> list[Problem]:
    """Check a component of the job's own code by what its source tells."""
    if text := scope.custom.lacks(path):
        return [scope.problem(text, "path")]
    node = scope.custom.definition(path)
    if node is None:
        return []
    if scope.kind is not object and is_based_on_nothing(node):
        return [scope.problem(f"{path} must be of type {scope.kind.__name__}, but has no base class")]
    wrong = misfits(node.name, source_parameters(node), args)
    return [scope.problem(text, "args", *([name] if name else [])) for name, text in wrong]
