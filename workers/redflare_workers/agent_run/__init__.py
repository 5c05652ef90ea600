"""A user's function as the agent of a site, in a process that is watched: what ``redflare agent run`` does."""

from __future__ import annotations

from .agent_order import AgentOrder
from .agent_supervisor import AgentSupervisor, Told

__all__ = ["AgentOrder", "AgentSupervisor", "Told"]
