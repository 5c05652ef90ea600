"""Public props of a context, which a job's server and a site exchange with a task and with its result."""

from __future__ import annotations

import logging
from typing import Any, Final

from redflare_broker.errors import EncodeError
from redflare_broker.wire.message_entry import pack_meta

from redflare_workers.apis.fl_constant import ReservedKey
from redflare_workers.apis.fl_context import FLContext

logger = logging.getLogger(__name__)

#: Props that the peer knows already, from a better source.
_KNOWN: Final = frozenset({ReservedKey.IDENTITY_NAME, ReservedKey.RUN_NUM})


def sendable_props(fl_ctx: FLContext) -> dict[str, Any]:
    """Return the public props that can be sent in the meta of a message; others are left out."""
    props = {}
    for key, value in fl_ctx.get_all_public_props().items():
        if key in _KNOWN:
            continue
        try:
            pack_meta({key: value})
        except EncodeError as error:
            logger.debug("public prop %r is not sent to the peer: %s", key, error)
        else:
            props[key] = value
    return props


def peer_context(props: object, identity: str, job_id: str) -> FLContext:
    """Make the context of a peer, as components see it, from the props that it has sent."""
    peer = FLContext()
    sent = props if isinstance(props, dict) else {}
    peer.set_public_props({**sent, ReservedKey.IDENTITY_NAME: identity, ReservedKey.RUN_NUM: job_id})
    return peer
