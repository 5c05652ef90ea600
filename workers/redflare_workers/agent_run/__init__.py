"""``redflare agent run``: a user's function as the agent of a site, in a process that is started again when it dies.

Start at: ``agent_supervisor.AgentSupervisor``, which starts the program ``agent_main`` with ``agent_process_args``;
``link_guard`` ends it when it cannot end itself.

May import: processes, util, the broker and the agent.
"""

from __future__ import annotations

from .agent_process_args import AgentProcessArgs
from .agent_supervisor import AgentSupervisor, ProcessEvent

__all__ = ["AgentProcessArgs", "AgentSupervisor", "ProcessEvent"]
