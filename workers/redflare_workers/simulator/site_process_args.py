"""The arguments of a process with sites: the server, its sites, and the function that answers their tasks."""

from __future__ import annotations

import os
import pickle
import sys
from dataclasses import dataclass, field
from multiprocessing import spawn
from typing import IO, TYPE_CHECKING, Any, Final

from redflare_broker.config.settings import LinkSettings
from redflare_broker.errors import ConfigError

if TYPE_CHECKING:
    from redflare_agent.serve import Train

PROGRAM: Final = "redflare_workers.simulator.site_program"

_IN_THREADS: Final = "put it into a module, or say processes=0 to have all sites in threads of this process"


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteProcessArgs:
    """The arguments of one process."""

    #: First part of its cell's name.
    name: str
    url: str = field(repr=False)
    job_id: str
    sites: tuple[str, ...]
    settings: LinkSettings
    train: Train

    def pack(self) -> bytes:
        """Pickle them for ``unpack`` in another process, behind what that process must set up first.

        Raises:
            ConfigError: the function cannot be handed to another process.
        """
        try:
            pickled = pickle.dumps(self)
        except Exception as error:  # whatever a __reduce__ raises
            raise ConfigError(f"train cannot be handed to other processes ({error}): {_IN_THREADS}") from error
        return pickle.dumps(_preparation(b"__main__" in pickled)) + pickled


def unpack(source: IO[bytes]) -> SiteProcessArgs:
    """Set this process up as ``pack`` describes, and read its arguments.

    Raises:
        ConfigError: what the function needs cannot be imported here.
    """
    spawn.prepare(pickle.load(source))
    try:
        args = pickle.load(source)
    except Exception as error:  # whatever importing the user's module raises
        raise ConfigError(f"train cannot be imported in another process ({error}): {_IN_THREADS}") from error
    assert isinstance(args, SiteProcessArgs)
    return args


def check_not_importing() -> None:
    """Raise if this is a process with sites that is importing the program that simulates.

    Raises:
        ConfigError: it is; without this, each such process would start others.
    """
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    if spec is not None and spec.name == PROGRAM:
        raise ConfigError(
            "simulate() was called while a process with sites imports the program that simulates: call it below "
            '`if __name__ == "__main__":`, so that importing has no effect'
        )


def _preparation(main: bool) -> dict[str, Any]:
    """Return the data of ``multiprocessing.spawn.prepare``: paths, arguments, the main program if ``main``."""
    prepared: dict[str, Any] = {"sys_path": [path or os.getcwd() for path in sys.path], "sys_argv": sys.argv}
    if main:
        program = sys.modules["__main__"]
        spec, file = getattr(program, "__spec__", None), getattr(program, "__file__", None)
        if spec is not None and spec.name:
            prepared["init_main_from_name"] = spec.name
        elif file is not None and os.path.isfile(file):
            prepared["init_main_from_path"] = os.path.abspath(file)
        else:
            raise ConfigError(
                f"train is a function of a notebook or a prompt, which other processes cannot import: {_IN_THREADS}"
            )
    return prepared
