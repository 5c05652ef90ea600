"""When a side of a link waits in Redis."""

from __future__ import annotations

from redflare_agent import IPCAgent
from redflare_broker.link.agent_link import AgentLink
from redflare_broker.link.cj_link import CJLink
from redflare_workers import IPCExchanger

from tests.support.waiting import wait_until


def until_blocked(side: IPCAgent | IPCExchanger | AgentLink | CJLink) -> None:
    """Wait until another thread waits in Redis for the peer of this side."""

    def blocked() -> bool:
        link = side if isinstance(side, AgentLink | CJLink) else side._link
        return link is not None and link.session._blocked is not None

    wait_until(blocked)
