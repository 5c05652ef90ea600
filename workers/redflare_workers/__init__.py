"""The names that jobs and controllers use: those of ``redflare_workers.apis``, and the classes that run jobs.

Each is imported when it is first used, so a command does not load what it does not need. The docstrings of the folders
call ``errors``, the one module here, the root.

May import: everything; it does so when a name is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .apis import *  # noqa: F403
    from .client.job.client_job import ClientJob as ClientJob
    from .client.parent.client_engine import ClientEngine as ClientEngine
    from .errors import TaskAborted as TaskAborted
    from .errors import TaskFailed as TaskFailed
    from .errors import TaskRejected as TaskRejected
    from .errors import TaskTimeout as TaskTimeout
    from .ipc.exchanger import IPCExchanger as IPCExchanger
    from .messaging.file_streamer import FileStreamer as FileStreamer
    from .server.job.server_job import ServerJob as ServerJob
    from .server.parent.server_parent import ServerParent as ServerParent
    from .simulator import simulate as simulate
    from .workspace.site_settings import Site as Site
    from .workspace.site_settings import SiteArgs as SiteArgs
    from .workspace.site_settings import load_site_settings as load_site_settings

#: Modules of the names that ``apis`` does not have.
_MODULES: Final = {
    "ClientEngine": "client.parent.client_engine",
    "ClientJob": "client.job.client_job",
    "FileStreamer": "messaging.file_streamer",
    "IPCExchanger": "ipc.exchanger",
    "ServerJob": "server.job.server_job",
    "ServerParent": "server.parent.server_parent",
    "Site": "workspace.site_settings",
    "SiteArgs": "workspace.site_settings",
    "TaskAborted": "errors",
    "TaskFailed": "errors",
    "TaskRejected": "errors",
    "TaskTimeout": "errors",
    "load_site_settings": "workspace.site_settings",
    "simulate": "simulator",
}


def __getattr__(name: str) -> object:
    module = import_module(f"{__name__}.{_MODULES.get(name, 'apis')}")
    if name not in _MODULES and name not in module.__all__:
        # packages of this one and modules of apis share names: client, workspace
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES, *import_module(f"{__name__}.apis").__all__})
