"""What Redis refuses to write now: everything, or payloads that are too large for the room that is left."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from typing import Final

from redflare_broker.errors import Unavailable
from redflare_broker.keys import LinkKeys, names_payload, room_note
from redflare_broker.payload.room import TTL_MS, RoomWait
from redflare_broker.transport.replies import Kind, ReplyError
from redflare_broker.transport.server import Server
from redflare_broker.util import humanize

from .redis_read import pipeline

#: Waits that are named before the rest is counted.
_NAMED: Final = 5


def refusals(server: Server, links: Iterable[LinkKeys]) -> tuple[str, ...]:
    """Try a write that changes nothing on each node that holds some of these links; return the refusals that pass by.

    A user who may not write learns nothing.
    """
    found = []
    for keys in {server.node(keys.link): keys for keys in links}.values():
        try:
            with server.borrow(keys.link) as connection:
                # XX: only if the key exists, and none has this name
                reply = connection.pipeline([("SET", keys.task(f"probe-{uuid.uuid4().hex}"), "", "XX")])[0]
                if isinstance(reply, ReplyError) and reply.rule.kind is not Kind.FINAL:
                    found.append(str(reply.error(connection.node, "to write")))
        except Unavailable as error:
            if not error.cause:
                raise
            found.append(str(error))
    return tuple(found)


def waits_for_room(server: Server, namespace: str, names: Iterable[str]) -> tuple[RoomWait, ...]:
    """Read who waits until a payload fits, those first that wait longest.

    Args:
        names: keys, among them the notes of those that wait.
    """
    end, found = room_note(""), []
    for prefix in {name.removesuffix(end) for name in names if name.endswith(end)}:
        if not names_payload(namespace, prefix):
            continue
        with server.borrow(prefix) as connection:
            note, left_ms = pipeline(connection, [("GET", room_note(prefix)), ("PTTL", room_note(prefix))])
        if isinstance(note, bytes) and isinstance(left_ms, int):
            found.append(RoomWait.read(prefix, note, max(0, TTL_MS - left_ms) / 1000))
    return tuple(sorted((wait for wait in found if wait), key=lambda wait: -wait.seconds))


def describe_room(waits: Sequence[RoomWait]) -> str:
    """Say what does not fit, in one sentence each: how much of how much, who waits, what to do; "" when all fits."""
    if not waits:
        return ""
    memory = next((f": {wait.memory}" for wait in waits if wait.memory), "")
    size = humanize.size(sum(wait.nbytes for wait in waits))
    what = f"a payload of {size}" if len(waits) == 1 else f"{len(waits)} payloads, {size} together"
    who = [f"{wait.fqcn} ({humanize.size(wait.nbytes)}, for {humanize.age(wait.seconds)})" for wait in waits]
    remedy = "Raise maxmemory (CONFIG SET maxmemory), or free space in Redis."
    return f"Redis has no room for {what}{memory}. Waiting: {humanize.first(who, _NAMED)}. {remedy}"
