"""Which writes Redis refuses now, and why; everything waits for these to pass."""

from __future__ import annotations

import uuid
from collections.abc import Iterable

from redflare_broker.errors import Unavailable
from redflare_broker.keys import LinkKeys
from redflare_broker.transport.replies import Kind, ReplyError
from redflare_broker.transport.server import Server


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
