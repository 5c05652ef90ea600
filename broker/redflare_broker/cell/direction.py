"""``Direction``: what the requests that a cell sends and those that it receives have in common."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from redflare_broker.config.settings import LinkSettings
from redflare_broker.fqcn import FQCN
from redflare_broker.keys import CellKeys, Keys
from redflare_broker.payload.encoded_payload import EncodedPayload
from redflare_broker.scripts.cell_scripts import POST, sender_values
from redflare_broker.transport.replies import Arg
from redflare_broker.transport.server import Server
from redflare_broker.util.fault_log import FaultLog
from redflare_broker.util.thread_pool import ElasticThreadPool
from redflare_broker.wire.message_entry import Envelope

from .outbox import Outbox
from .request import Payload
from .unnamed_payloads import UnnamedPayloads


@dataclass(frozen=True, slots=True, eq=False)
class CellParts:
    """What both directions of a cell work with."""

    server: Server
    keys: CellKeys
    settings: LinkSettings
    outbox: Outbox
    pool: ElasticThreadPool
    payloads: UnnamedPayloads
    faults: FaultLog


class Direction:
    """One direction of a cell's requests; base of ``IncomingRequests`` and ``OutgoingRequests``."""

    def __init__(self, parts: CellParts) -> None:
        self.fqcn = parts.keys.fqcn
        #: whose inbox its messages go to
        self._owner = FQCN.owner(self.fqcn)
        self._server = parts.server
        self._keys = parts.keys
        self._federation = Keys(parts.settings.namespace)
        self._settings = parts.settings
        self._outbox = parts.outbox
        self._pool = parts.pool
        self._payloads = parts.payloads
        self.faults = parts.faults
        #: Why a Redis that is away is not waited for any more; "" while it is.
        self._closed = ""

    def store(self, source: EncodedPayload, stop: Callable[[], bool] = lambda: False) -> EncodedPayload:
        """Return data as it is sent; the buffers of a large payload are stored in chunks, see ``UnnamedPayloads``.

        Raises:
            Unavailable: Redis is unreachable, and ``stop`` returned True, or the cell was stopped.
            ServerError: it refuses them.
        """
        prefix = self._keys.blob(os.urandom(16).hex())
        return self._payloads.store(source, prefix, lambda: bool(self._closed) or stop())

    def _post_command(self, target: CellKeys, envelope: Envelope) -> list[Arg]:
        """Make the command that puts a message into the inbox that any cell has for this one's owner."""
        return POST.command(self._at(target), envelope.fields())

    def _at(self, target: CellKeys) -> dict[str, Arg]:
        """Make the values of this cell's steps at another one."""
        # where steps are functions, its user may add to the set of senders, and nothing else
        may_keep = not self._server.functions
        retention_ms = self._settings.policy.retention_ms
        return sender_values(target, self._owner, self._server.publish, retention_ms, may_keep=may_keep)

    def _payload(self, envelope: Envelope) -> Payload:
        """Make the payload of a message that has come."""
        encoded = EncodedPayload(envelope.data, envelope.buffers, envelope.blob)
        return Payload(encoded, not envelope.keep, self._server, self._settings.limits, stop=lambda: bool(self._closed))
