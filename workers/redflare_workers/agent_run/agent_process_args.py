"""``AgentProcessArgs``: what the process of an agent is to do; it travels in that process's environment."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Final, Self

import orjson

#: Variable of the environment; others of this machine cannot read it, as they could read a command line.
_VARIABLE: Final = "REDFLARE_AGENT_ORDER"


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentProcessArgs:
    """Which function serves which agent."""

    #: ``module:function``
    train: str
    url: str
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

    def environment(self) -> dict[str, str]:
        """What is added to the environment of the agent's process."""
        return {_VARIABLE: orjson.dumps(asdict(self)).decode()}

    @classmethod
    def take(cls) -> Self:
        """That of this process; what it starts does not get it."""
        return cls(**orjson.loads(os.environ.pop(_VARIABLE)))
