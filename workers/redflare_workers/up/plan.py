"""``make_plan``: the processes of ``redflare up``, with their commands; it starts nothing."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from redflare_broker.embedded.server import EmbeddedServer
from redflare_broker.errors import ConfigError
from redflare_broker.transport.url import ServerUrl

from .up_folder import Access, UpFolder

#: In the order in which they end, the first first.
Kind = Literal["agent", "site", "server", "redis"]
ORDER_OF_END: Final[tuple[Kind, ...]] = ("agent", "site", "server", "redis")
#: Seconds in which each must end; their own limits are shorter.
GRACE: Final[Mapping[Kind, float]] = {"agent": 12.0, "site": 15.0, "server": 25.0, "redis": 12.0}

SERVER: Final = "server"
_COMMAND: Final = "redflare_workers.cli.kept_main"
_REDIS: Final = "redflare_workers.up.redis_main"


@dataclass(frozen=True, slots=True, kw_only=True)
class UpOptions:
    """Options of ``redflare up``."""

    folder: Path
    sites: int = 2
    #: ``module:function``; None: no agents
    agent: str | None = None
    agent_id: str = "trainer"
    #: of a Redis that runs already; None: an embedded Valkey, with its data in the folder
    url: str | None = field(default=None, repr=False)
    #: of 127.0.0.1, for the embedded one; None: a Unix socket in the folder
    port: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedProcess:
    """One process: its name in messages, on the terminal and of its log, and what it runs."""

    name: str
    kind: Kind
    command: tuple[str, ...]
    log: Path
    env: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class UpPlan:
    """All processes; Redis is there before the others are started."""

    folder: UpFolder
    access: Access
    #: None: one that runs already
    redis: PlannedProcess | None
    others: tuple[PlannedProcess, ...]
    sites: tuple[str, ...]
    agent: str | None

    @property
    def processes(self) -> tuple[PlannedProcess, ...]:
        return (*((self.redis,) if self.redis else ()), *self.others)

    @property
    def workspaces(self) -> tuple[str, ...]:
        return (SERVER, *self.sites)


def make_plan(options: UpOptions) -> UpPlan:
    """List the processes.

    Raises:
        ConfigError: options contradict each other, or there is no embedded server here.
    """
    folder = UpFolder(options.folder.absolute())
    if options.url is not None and options.port is not None:
        raise ConfigError("--port is for the embedded Redis, and --url names another one: leave one of them out")
    if options.url is not None:
        ServerUrl.parse(options.url)
        url, redis = options.url, None
    else:
        url = EmbeddedServer(folder.redis, options.port).url
        command = _python(_REDIS, str(folder.redis), str(options.port or ""))
        redis = PlannedProcess(name="redis", kind="redis", command=command, log=folder.log("redis"))
    access = Access(url=url)
    sites = tuple(f"site-{number}" for number in range(1, options.sites + 1))
    return UpPlan(
        folder=folder,
        access=access,
        redis=redis,
        others=_others(folder, access, sites, options),
        sites=sites,
        agent=options.agent,
    )


def _others(folder: UpFolder, access: Access, sites: tuple[str, ...], options: UpOptions) -> tuple[PlannedProcess, ...]:
    def planned(name: str, kind: Kind, workspace: str, *command: str) -> PlannedProcess:
        return PlannedProcess(
            name=name,
            kind=kind,
            command=_python(_COMMAND, *command, "--workspace", str(folder.workspace(workspace))),
            log=folder.log(name),
            env=access.environment(),
        )

    server = planned(SERVER, "server", SERVER, "server", "--name", SERVER)
    of_sites = [planned(site, "site", site, "site", site, "--server", SERVER) for site in sites]
    run = ("agent", "run", options.agent or "", "--id", options.agent_id)
    agents = [
        planned(f"agent-{number}", "agent", site, *run, "--site", site)
        for number, site in enumerate(sites, start=1)
        if options.agent is not None
    ]
    return (server, *of_sites, *agents)


def _python(module: str, *arguments: str) -> tuple[str, ...]:
    # -P: no file of the user's, in whose folder it runs, may hide a module
    return (sys.executable, "-P", "-m", module, *arguments)
