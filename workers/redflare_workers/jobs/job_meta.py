"""``meta.json`` of a job, with NVFlare's keys."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from redflare_broker.errors import ConfigError
from redflare_broker.fqcn import FQCN, check_name
from redflare_broker.util.did_you_mean import did_you_mean

from .problems import Problem, ProblemReader, listed

#: In a deploy map: the server and all sites that are not named elsewhere in it.
ALL_SITES: Final = "@ALL"
#: In a deploy map: the server, whatever its name is.
SERVER: Final = "server"

_KNOWN: Final = frozenset({"name", "min_clients", "mandatory_clients", "deploy_map", "agent_id", "resource_spec"})
_NAME_LENGTH: Final = 200
_MAX_CLIENTS: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class JobMeta:
    """The checked meta of a job."""

    name: str
    #: the job starts when so many of its sites are connected, and ends when fewer are left
    min_clients: int = 1
    #: sites without which it neither starts nor continues
    mandatory_clients: tuple[str, ...] = ()
    #: by app folder: the sites it goes to
    deploy_map: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    #: the agent that ``IPCExchanger`` works with
    agent_id: str | None = None
    #: by app: the agents that its components name in their arguments; not in ``meta.json``, but in the apps' configs
    agents: Mapping[str, Sequence[str]] = field(default_factory=dict)
    #: by site, or ``@ALL``: amounts of the resources it needs
    resource_spec: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    #: keys that redflare does not know; components find them in the job's meta
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def named_clients(self) -> tuple[str, ...] | None:
        """The sites of the deploy map; None: all sites."""
        sites = [site for targets in self.deploy_map.values() for site in targets]
        return None if ALL_SITES in sites else tuple(site for site in sites if site != SERVER)

    def app_for(self, target: str) -> str | None:
        """Return the app for a site, or for ``"server"``; None if the job has none for it."""
        for app, targets in self.deploy_map.items():
            if target in targets:
                return app
        return next((app for app, targets in self.deploy_map.items() if ALL_SITES in targets), None)

    def resources_for(self, site: str) -> dict[str, float]:
        """Return the amounts of the resources that the job needs at a site."""
        return {**self.resource_spec.get(ALL_SITES, {}), **self.resource_spec.get(site, {})}

    def agents_at(self, site: str) -> set[str]:
        """Return the agents that the job works with at a site."""
        named = set(self.agents.get(self.app_for(site) or "", ()))
        return named if self.agent_id is None else {self.agent_id, *named}

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``meta.json``."""
        meta: dict[str, Any] = {
            "name": self.name,
            "min_clients": self.min_clients,
            "mandatory_clients": list(self.mandatory_clients),
            "deploy_map": {app: list(targets) for app, targets in self.deploy_map.items()},
            "agent_id": self.agent_id,
            "resource_spec": {site: dict(spec) for site, spec in self.resource_spec.items()},
            **self.extra,
        }
        return {key: value for key, value in meta.items() if value or key in self.extra}


def parse_meta(data: Mapping[str, Any], file: str = "meta.json") -> tuple[JobMeta, list[Problem], list[Problem]]:
    """Read a meta from the content of its file.

    Returns:
        the meta, without invalid values; all errors; and warnings about keys that have no effect.
    """
    reader = _MetaReader(data, file)
    deploy_map = reader.deploy_map()
    meta = JobMeta(
        name=reader.name(),
        min_clients=reader.min_clients(),
        mandatory_clients=reader.mandatory_clients(),
        deploy_map=deploy_map,
        agent_id=reader.agent_id(),
        resource_spec=reader.resource_spec(),
        extra={key: value for key, value in data.items() if key not in _KNOWN},
    )
    reader.compare(meta)
    warnings = [
        Problem(file, key, f"is not a key of redflare and has no effect{did_you_mean(key, _KNOWN)}")
        for key in meta.extra
    ]
    return meta, reader.problems, warnings


class _MetaReader(ProblemReader):
    """Reads one key after the other."""

    def __init__(self, data: Mapping[str, Any], file: str) -> None:
        super().__init__(file)
        self.data = data

    def name(self) -> str:
        name = self.data.get("name")
        if not isinstance(name, str) or not name.strip() or len(name) > _NAME_LENGTH or not name.isprintable():
            self._add("name", f"must be a text of 1 to {_NAME_LENGTH} characters, but is {name!r}")
            return ""
        return name

    def min_clients(self) -> int:
        value = self.data.get("min_clients", 1)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MAX_CLIENTS:
            self._add("min_clients", f"must be a whole number from 1 to {_MAX_CLIENTS}, but is {value!r}")
            return 1
        return value

    def mandatory_clients(self) -> tuple[str, ...]:
        value = self.data.get("mandatory_clients")
        return () if value is None else self._sites("mandatory_clients", value, allowed=())

    def agent_id(self) -> str | None:
        value = self.data.get("agent_id")
        return None if value is None or not self._is_name("agent_id", value, "it") else str(value)

    def deploy_map(self) -> dict[str, tuple[str, ...]]:
        value = self.data.get("deploy_map")
        if not isinstance(value, dict) or not value:
            self._add("deploy_map", f'must map apps to sites, like {{"app": ["@ALL"]}}, but is {value!r}')
            return {}
        found: dict[str, tuple[str, ...]] = {}
        apps: dict[str, str] = {}
        for app, targets in value.items():
            key = f"deploy_map.{app}"
            if not self._is_segment(key, app):
                continue
            found[app] = self._sites(key, _listed_targets(targets), allowed=(ALL_SITES, SERVER))
            for site in found[app]:
                if site in apps:
                    self._add(key, f"{site!r} gets app {apps[site]!r} already; a site has one app of a job")
                apps.setdefault(site, app)
            if not targets:
                self._add(key, "names no site; leave the app out, or name its sites")
        return found

    def resource_spec(self) -> dict[str, dict[str, float]]:
        value = self.data.get("resource_spec")
        if value is None:
            return {}
        if not isinstance(value, dict):
            self._add("resource_spec", f'must be a dict like {{"site-1": {{"num_of_gpus": 1}}}}, but is {value!r}')
            return {}
        found: dict[str, dict[str, float]] = {}
        for site, spec in value.items():
            key = f"resource_spec.{site}"
            if site != ALL_SITES and not self._is_name(key, site):
                continue
            if not isinstance(spec, dict):
                self._add(key, f"must be a dict of numbers, but is {spec!r}")
                continue
            found[site] = {name: amount for name, amount in spec.items() if self._is_amount(f"{key}.{name}", amount)}
        return found

    def compare(self, meta: JobMeta) -> None:
        """Report values that are valid each but do not fit together."""
        clients = meta.named_clients
        if not meta.deploy_map or self.problems:
            return
        if meta.app_for(SERVER) is None:
            self._add("deploy_map", f"no app goes to {SERVER!r}; name it, or {ALL_SITES!r}")
        if clients is None:
            return
        if not clients:
            self._add("deploy_map", f"no app goes to a site; name some, or {ALL_SITES!r}")
        elif len(clients) < meta.min_clients:
            self._add("min_clients", f"is {meta.min_clients}, but the deploy map names {len(clients)}")
        if missing := set(meta.mandatory_clients) - set(clients):
            self._add("mandatory_clients", f"{listed(missing)} have no app in the deploy map")
        if missing := set(meta.resource_spec) - {*clients, ALL_SITES, SERVER}:
            self._add("resource_spec", f"{listed(missing)} have no app in the deploy map")

    def _sites(self, key: str, value: Any, allowed: tuple[str, ...]) -> tuple[str, ...]:
        if not isinstance(value, list):
            self._add(key, f"must be a list of names of sites, but is {value!r}")
            return ()
        sites: list[str] = []
        for place, each in enumerate(value):
            site = each
            if isinstance(each, str):
                # NVFlare does not mind the case of these two
                site = next((word for word in allowed if word.casefold() == each.casefold()), each)
            if site in allowed or self._is_name(f"{key}[{place}]", site):
                if site == SERVER and not allowed:
                    self._add(f"{key}[{place}]", f"{SERVER!r} is the server, not a site")
                elif site in sites:
                    self._add(f"{key}[{place}]", f"{site!r} is listed more than once")
                else:
                    sites.append(site)
        return tuple(sites)

    def _is_segment(self, key: str, value: Any) -> bool:
        return self._is_legal(key, lambda: FQCN.check_segment(value, "the app's name"))

    def _is_name(self, key: str, value: Any, what: str = "the site's name") -> bool:
        return self._is_legal(key, lambda: check_name(value, what))

    def _is_legal(self, key: str, check: Callable[[], object]) -> bool:
        try:
            check()
        except (ConfigError, TypeError) as error:
            self._add(key, str(error))
            return False
        return True

    def _is_amount(self, key: str, value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
            self._add(key, f"must be a number >= 0, but is {value!r}")
            return False
        return True


def _listed_targets(targets: Any) -> Any:
    """Convert NVFlare's notations of a list of sites: a name, ``{"targets": [...]}``, or such dicts in a list."""
    if isinstance(targets, str):
        return [targets]
    if isinstance(targets, dict) and set(targets) in ({"targets"}, {"sites"}):
        return _listed_targets(next(iter(targets.values())))
    if isinstance(targets, list) and any(isinstance(each, dict) for each in targets):
        flat: list[Any] = []
        for each in targets:
            inner = _listed_targets(each)
            flat.extend(inner if isinstance(inner, list) and isinstance(each, dict) else [each])
        return flat
    return targets
