"""Exceptions of an agent's calls, besides ``TypeError`` and ``ValueError``; names follow NVFlare's IPC agent."""

from __future__ import annotations

from redflare_broker.errors import RedflareError


class AgentClosed(RedflareError):
    """The agent has ended: stopped, replaced by a newer instance, or its CJ said bye or is gone. Make a new one."""


class CallStateError(RedflareError):
    """A call that does not fit the agent's state; the message names the call that is due instead."""
