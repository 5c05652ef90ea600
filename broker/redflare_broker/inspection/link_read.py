"""Reads the keys of a link: both sides, the ledger of a task, and how the tasks of sites stand at their agents."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Set
from typing import cast

from redflare_broker.keys import Keys, LinkKeys
from redflare_broker.transport.connection import Connection
from redflare_broker.transport.server import Server

from .job_view import AgentTaskView
from .presence import LinkPresence, side_of_link
from .redis_read import now_of, pipeline, text_hash
from .task_view import TaskView, waiting


def read_sides(connection: Connection, keys: LinkKeys, seen_ms: int) -> tuple[LinkPresence, LinkPresence, str, int]:
    """Read the agent's and the CJ's side, the id of the open task, and the time in ms of Redis's clock."""
    heartbeats = [(verb, keys.heartbeat(role)) for role in ("agent", "cj") for verb in ("GET", "PTTL")]
    time, link, *beats = pipeline(connection, [("TIME",), ("HGETALL", keys.link), *heartbeats])
    agent_beat, agent_pttl, cj_beat, cj_pttl = cast("tuple[bytes | None, int, bytes | None, int]", beats)
    now, fields = now_of(time), text_hash(link)
    agent = side_of_link("agent", fields, agent_beat, agent_pttl, now, seen_ms)
    return agent, side_of_link("cj", fields, cj_beat, cj_pttl, now), fields.get("task", ""), now


def read_ledger(connection: Connection, keys: LinkKeys, task_id: str) -> TaskView | None:
    """Read the ledger of a task; None if there is none."""
    key = keys.task(task_id)
    time, ledger, ttl_ms = pipeline(connection, [("TIME",), ("HGETALL", key), ("PTTL", key)])
    fields = text_hash(ledger)
    return TaskView.read(keys.fqcn, task_id, fields, now_of(time), cast("int", ttl_ms)) if fields else None


def tasks_at_agents(
    server: Server, keys: Keys, links: Iterable[str], wanted: Mapping[str, Set[str]]
) -> dict[str, AgentTaskView]:
    """Find the tasks that sites have handed to their agents, by the ids of the client tasks.

    Args:
        links: the FQCNs of all links.
        wanted: the client tasks of each site.
    """
    found = {}
    for fqcn in links:
        ids = {task_id for site in _sites_of(fqcn) for task_id in wanted.get(site, ())}
        if not ids:
            continue
        link = keys.link(fqcn)
        with server.borrow(link.link) as connection:
            agent, cj, open_task, _ = read_sides(connection, link, 0)
            task = read_ledger(connection, link, open_task) if open_task in ids else None
        if task is not None:
            found[open_task] = AgentTaskView(
                fqcn=fqcn,
                status=task.status,
                attempt=task.attempt,
                agent=agent.state,
                waiting=waiting(task, agent, cj),
            )
    return found


def _sites_of(fqcn: str) -> list[str]:
    """Return the site of an agent's name; several where the name has more than one ``--``."""
    ends = [match.start() for match in re.finditer(r"--|\.", fqcn)]
    return [fqcn[:end] for end in ends]
