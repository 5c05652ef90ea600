"""Notifies the agents of a job that was aborted, in place of a process that was killed.

A process that ends in order says bye to its agents. One that was killed has not; the client parent then aborts their
task and says bye in its place. Either way it waits a moment for them to leave.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Final

from redflare_broker.config.settings import LinkSettings
from redflare_broker.errors import DecodeError, RedflareError
from redflare_broker.inspection.federation import Inspector
from redflare_broker.keys import LinkKeys
from redflare_broker.link.ledger_payloads import remove_task_payloads
from redflare_broker.link.supervision import Supervision
from redflare_broker.runtime.keyspace_feed import KeyspaceFeed
from redflare_broker.scripts.lease import Lease
from redflare_broker.scripts.link_scripts import LinkScripts
from redflare_broker.scripts.task_states import ABORTED
from redflare_broker.transport.server import Server

logger = logging.getLogger(__name__)

#: Seconds that agents have to leave; after that, their state is returned as it is.
PATIENCE: Final = 2.0
#: Seconds that an agent with a supervisor has at most: the server does not wait for longer.
_LONGEST: Final = 25.0
#: State of an agent whose supervisor has ended its process.
KILLED: Final = "killed"
#: State of an agent when Redis cannot be asked.
UNKNOWN: Final = "unknown"


def notify_agents(
    server: Server, settings: LinkSettings, agents: Iterable[str], pid: int, reason: str, *, patience: float = PATIENCE
) -> dict[str, str]:
    """Abort the tasks of the agents of a process that is gone, and say bye to them in its place.

    Args:
        agents: FQCNs.
        pid: of that process; an agent that works for another one by now is left alone.

    Returns:
        by FQCN: ``left`` (it has confirmed), ``killed`` (its process did not, and its supervisor has ended it),
        ``connected`` (it was notified, and is still connected), ``silent`` or
        ``gone`` (no heartbeat found; it learns of the end if it comes back), ``never`` (it never connected),
        ``unknown`` (Redis cannot be asked).
    """
    inspector = Inspector(server, settings.namespace)
    deadline = time.monotonic() + patience
    states: dict[str, str] = {}
    for fqcn in agents:
        try:
            keys = inspector.keys.link(fqcn)
            scripts = LinkScripts(keys=keys, publish=server.publish, policy=settings.policy)
            _notify(server, scripts, inspector, pid, reason)
            states[fqcn] = _await_leave(server, keys, inspector, deadline)
        except RedflareError as error:
            logger.warning("cannot notify agent %s that its job was aborted: %s", fqcn, error)
            states[fqcn] = UNKNOWN
    return states


def _notify(server: Server, scripts: LinkScripts, inspector: Inspector, pid: int, reason: str) -> None:
    status = inspector.link(scripts.keys.fqcn)
    lease = Lease(name="cj", instance=status.cj.instance, epoch=status.cj.epoch)
    # unless another process holds the CJ's side of the link by now
    if status.cj.state in ("left", "never") or not lease.is_of(pid):
        return
    with server.borrow(scripts.keys.link) as connection:
        ended = []
        if status.task is not None and scripts.abort(connection, None, status.task.task_id, reason).status == ABORTED:
            ended.append(status.task.task_id)
        if isinstance(kept := connection.call("HGET", scripts.keys.link, "kept_task"), bytes) and kept:
            ended.append(kept.decode())
        scripts.bye(connection, lease)
    for task_id in ended:
        remove_task_payloads(server, scripts.keys, task_id, deadline=time.monotonic())
    logger.info("notified agent %s that its job was aborted: %s", scripts.keys.fqcn, reason)


def _await_leave(server: Server, keys: LinkKeys, inspector: Inspector, deadline: float) -> str:
    with server.borrow(keys.link) as connection:
        closed = connection.call("HGET", keys.link, "cj_closed")
    bye_at = int(closed) if isinstance(closed, bytes) else 0
    first, supervision = inspector.link(keys.fqcn).agent, _supervision(server, keys)
    awaited: tuple[str, ...] = ("connected",)
    if supervision is not None:
        deadline = time.monotonic() + min(supervision.within, _LONGEST)
        awaited = ("connected", "silent", "gone")
    # one that starts after a goodbye of the CJ gets a later epoch
    if first.state not in awaited and not 0 < bye_at < first.epoch:
        return _how_left(server, keys, first.instance, bye_at) if first.state == "left" else first.state
    with KeyspaceFeed(server, keys.link, [keys.link]) as feed:
        while True:
            agent = inspector.link(keys.fqcn).agent
            # it has left, and another may be there already
            if agent.state == "left" or agent.epoch != first.epoch or 0 < bye_at < agent.epoch:
                return _how_left(server, keys, first.instance, bye_at)
            if agent.state not in awaited or (left := deadline - time.monotonic()) <= 0:
                return agent.state
            feed.wait(left)


def _how_left(server: Server, keys: LinkKeys, instance: str, bye_at: int) -> str:
    """Whether an agent has left by itself, or its supervisor has ended its process."""
    supervision = _supervision(server, keys)
    if supervision is not None and (supervision.ended == instance or 0 < bye_at <= supervision.ended_at):
        return KILLED
    return "left"


def _supervision(server: Server, keys: LinkKeys) -> Supervision | None:
    """Read what the supervisor of an agent's process tells; None: it has none."""
    with server.borrow(keys.link) as connection:
        found = connection.call("GET", keys.supervisor)
    try:
        return Supervision.read(found) if isinstance(found, bytes) else None
    except DecodeError as error:
        logger.warning("%s cannot be read: %s", keys.supervisor, error)
        return None
