"""Public props of a context: what a job's server and a site let each other see with a task and with its result."""

from __future__ import annotations

import logging
from typing import Any, Final

from redflare_broker.errors import EncodeError
from redflare_broker.wire.message_entry import pack_meta

from redflare_workers.apis.fl_constant import ReservedKey
from redflare_workers.apis.fl_context import FLContext

logger = logging.getLogger(__name__)

#: What the other side knows already, and from a better source.
_KNOWN: Final = frozenset({ReservedKey.IDENTITY_NAME, ReservedKey.RUN_NUM})


def told_props(fl_ctx: FLContext) -> dict[str, Any]:
    """Public props that can travel in the meta of a message; others are left out."""
    props = {}
    for key, value in fl_ctx.get_all_public_props().items():
        if key in _KNOWN:
            continue
        try:
            pack_meta({key: value})
        except EncodeError as error:
            logger.debug("public prop %r is not shown to the other side: %s", key, error)
        else:
            props[key] = value
    return props


def peer_context(props: object, identity: str, job_id: str) -> FLContext:
    """What components see of the other side; ``props`` is what it has told."""
    peer = FLContext()
    told = props if isinstance(props, dict) else {}
    peer.set_public_props({**told, ReservedKey.IDENTITY_NAME: identity, ReservedKey.RUN_NUM: job_id})
    return peer
