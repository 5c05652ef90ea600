"""``AgentProcessArgs``: the arguments of an agent's process, passed in its environment."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from typing import Final, Self

import orjson

#: Environment variable; other users of the machine cannot read it, as they could read a command line.
_VARIABLE: Final = "REDFLARE_AGENT_ARGS"


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentProcessArgs:
    """The function that serves tasks, and the agent it serves them as."""

    #: ``module:function``
    train: str
    url: str = field(repr=False)
    site: str
    agent_id: str
    workspace: str = "."
    secure: bool = False
    #: the agent is one job's, and ends with it; None: it serves one job after the other
    job_id: str | None = None
    #: seconds that the function has to return when its task is aborted; then its process ends without it
    abort_grace: float = 10.0
    #: seconds that it has when the agent is to stop
    stop_grace: float = 5.0
    #: how the process before this one has ended; "": this is the first
    last_exit: str = ""
    #: the trainer is not started any more: this process answers the open task with EXECUTION_EXCEPTION, and ends
    giving_up: bool = False

    def environment(self) -> dict[str, str]:
        """Variables to add to the environment of the agent's process."""
        return {_VARIABLE: orjson.dumps(asdict(self)).decode()}

    @classmethod
    def take(cls) -> Self:
        """Read the arguments of this process, and remove them from the environment that its children inherit."""
        return cls(**orjson.loads(os.environ.pop(_VARIABLE)))
