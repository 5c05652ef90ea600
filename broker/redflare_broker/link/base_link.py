"""What both sides of a link have in common beyond their line: payloads, dead letters, and what heartbeats tell."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

import orjson

from redflare_broker.config.settings import LinkSettings
from redflare_broker.constants import PROTOCOL_VERSION
from redflare_broker.errors import RedflareError
from redflare_broker.payload import redis_store
from redflare_broker.payload.encoded_payload import INLINE_BUFFERS
from redflare_broker.scripts.script import BURIED, FENCED, LOST, ScriptReply, parse_reply
from redflare_broker.transport.replies import Arg, RedisReply
from redflare_broker.transport.server import Server
from redflare_broker.wire.codec import Encoded, ReceivePlan, plan
from redflare_broker.wire.task_entry import BlobRef, Entry

from .liveness import Liveness, Peer
from .session import Session

logger = logging.getLogger(__name__)

_REGISTER_EVERY: Final = 30.0


class LinkEndpoint(Session):
    """One side of the link of the agent ``fqcn``.

    The heartbeat thread calls ``beat``, ``on_beat`` and ``on_silence``; they set flags, and nudge whoever waits.

    Args:
        liveness: judges the other side.
        on_news: called from the heartbeat thread after each beat; look at ``fenced`` and ``peer``.
    """

    def __init__(
        self, server: Server, fqcn: str, settings: LinkSettings, liveness: Liveness, on_news: Callable[[], None]
    ) -> None:
        super().__init__(server, fqcn, settings)
        self.liveness = liveness
        #: Seconds between two heartbeats.
        self.interval = settings.heartbeat_interval
        #: The task this side works on.
        self.task_id: str | None = None
        #: The task that the heartbeat on its way asks about, and what the last one told: a task and its status.
        self._asked = ""
        self._seen = ("", "")
        self.peer_instance = ""
        self._on_news = on_news
        self._registered = -_REGISTER_EVERY
        self._renewed = time.monotonic()
        self._silent = False
        self._held_blobs: dict[str, BlobRef] = {}
        #: what the keys of payloads begin with that an entry of this link may name
        self._blob_prefixes: tuple[str, ...] = (
            self.keys.result_blob(""),
            self.federation.task_blob("").removesuffix("}"),
        )

    @property
    def peer(self) -> Peer:
        return self.liveness.state

    @property
    def task_status(self) -> str:
        """The status of this side's task when the last heartbeat looked; "" when none has looked yet."""
        task_id, status = self._seen
        return status if task_id == self.task_id else ""

    def work_on(self, task_id: str | None) -> None:
        """From now on this side works on this task, or on none."""
        self._seen = ("", "")
        self.task_id = task_id

    def close(self, *, bye: bool) -> None:
        """Leave; with ``bye`` the other side is told, if Redis can be reached now. Safe to call twice."""
        self.nudge()
        if bye and not self.fenced and self.lease.epoch:
            try:
                with self.server.borrow(self.keys.link) as connection:
                    self.fenced = self.scripts.bye(connection, self.lease).status == FENCED
            except RedflareError as exc:
                logger.warning("%s: could not say bye, its keys will expire: %s", self.label, exc)

    # -- payload -------------------------------------------------------------------------------------------------------

    def payload(self, encoded: Encoded, prefix: str) -> tuple[tuple[memoryview, ...], BlobRef | None]:
        """Where a message's buffers go: into its entry when it is small, else into blob chunks, written now."""
        limits = self.settings.limits
        if encoded.nbytes <= limits.inline_bytes and len(encoded.buffers) <= INLINE_BUFFERS:
            return tuple(encoded.buffers), None
        # one attempt: the caller's loop repeats it, and asks in between whether it is still wanted
        ref = redis_store.put(
            self.server,
            prefix,
            encoded.buffers,
            chunk=limits.chunk_bytes,
            ttl_ms=self.settings.policy.retention_ms,
            deadline=time.monotonic(),
        )
        self.hold_blob(ref)
        return (), ref

    def decode(self, entry: Entry) -> ReceivePlan:
        """Receive an entry's buffers.

        Raises:
            DecodeError: the entry is not what it claims to be.
            BlobMissing: its payload is gone.
            Unavailable: try again.
        """
        limits = self.settings.limits
        if entry.blob is not None:
            redis_store.check_ref(entry.blob, limits)
            received = plan(entry.meta, entry.data, entry.blob.sizes, limits)
            redis_store.fetch(self.server, entry.blob, received.targets, deadline=time.monotonic())
            return received
        received = plan(entry.meta, entry.data, [len(buffer) for buffer in entry.buffers], limits)
        for target, buffer in zip(received.targets, entry.buffers, strict=True):
            target[:] = buffer
        return received

    def parse(self, stream: str, entry_id: str, fields: list[bytes]) -> Entry:
        """Read an entry of a stream.

        Raises:
            DecodeError: it is none of ours; ``bury`` it, unless it ``stands_for`` the task in hand.
        """
        return Entry.parse(stream, entry_id, fields, allowed_prefixes=self._blob_prefixes)

    def stands_for(self, task_id: str, field: str, entry_id: str) -> bool:
        """Whether the ledger of a task names this entry in ``field`` (entry or result)."""
        return self.open_connection().call("HGET", self.keys.task(task_id), field) == entry_id.encode()

    def bury(self, stream: str, entry_id: str, reason: str) -> None:
        """Move an entry to the dead-letter stream."""
        if (
            self.step(lambda connection, lease: self.scripts.bury(connection, lease, stream, entry_id, reason)).status
            == BURIED
        ):
            logger.error("%s: entry %s of %s is now in %s: %s", self.label, entry_id, stream, self.keys.dead, reason)

    def release_blob(self, ref: BlobRef | None) -> None:
        """Delete a payload that nobody needs any more; one that cannot be reached now expires."""
        if ref is None:
            return
        self._held_blobs.pop(ref.prefix, None)
        try:
            redis_store.remove(self.server, ref, deadline=time.monotonic())
        except RedflareError as exc:
            logger.warning("%s: payload %s is left to expire: %s", self.label, ref.prefix, exc)

    def hold_blob(self, ref: BlobRef) -> None:
        """From now on this side keeps the payload alive."""
        self._held_blobs[ref.prefix] = ref

    def hand_over_blob(self, ref: BlobRef) -> None:
        """Somebody else keeps and deletes this payload from now on."""
        self._held_blobs.pop(ref.prefix, None)

    # -- heartbeat thread ----------------------------------------------------------------------------------------------

    @property
    def route(self) -> str:
        return self.keys.link

    def beat(self) -> list[Arg]:
        """The heartbeat as a command."""
        # the interval of this side may be another than the one that the settings were checked with
        ttl_ms = round(max(self.settings.heartbeat_ttl, 2 * self.interval) * 1000)
        # the reply may come when this side has gone on to another task
        self._asked = self.task_id or ""
        host, pid, _ = self.lease.instance.rsplit(":", 2)
        beat = {
            "instance": self.lease.instance,
            "epoch": self.lease.epoch,
            "host": host,
            "pid": int(pid),
            "interval": self.interval,
            "ttl_ms": ttl_ms,
            "task": self._asked,
            "version": PROTOCOL_VERSION,
        }
        return self.scripts.beat_command(self.lease, orjson.dumps(beat), ttl_ms, self._asked)

    def on_beat(self, reply: RedisReply) -> None:
        """What Redis answered to a heartbeat."""
        said = parse_reply("link/beat", reply)
        if said.status == FENCED:
            self.fenced = True
        elif said.status == LOST:
            self._resume()
        else:
            self._seen = (self._asked, said.text(1))
            self._hear(said)
            self._look_after()
        if self._silent:
            # what broke this connection may have broken the one of a blocked read too, and nobody will tell it
            self._silent = False
            self.nudge()
        self.judge()

    def on_silence(self, error: RedflareError) -> None:
        """A heartbeat could not be sent."""
        self._silent = True
        logger.debug("%s: no heartbeat: %s", self.label, error)
        self.judge()

    def judge(self) -> None:
        """Recompute the peer's state, log a change, and tell the owner."""
        if self.liveness.judge():
            logger.info("%s: the other side is %s", self.label, self.liveness.state.value)
        self._on_news()

    def _resume(self) -> None:
        try:
            with self.server.borrow(self.keys.link) as connection:
                self.hello(connection, self.lease.epoch)
        except RedflareError as exc:
            logger.debug("%s: not resumed: %s", self.label, exc)
        self.nudge()

    def _hear(self, said: ScriptReply) -> None:
        """``said``: open task id, status, peer's beat, its PTTL, peer's instance, when it said bye."""
        instance, left = said.text(4), said.number(3)
        if beat := said.text(2):
            try:
                ttl_ms = int(orjson.loads(beat)["ttl_ms"])
            except (ValueError, KeyError, TypeError):
                logger.warning("%s: the other side's heartbeat is not one: %.200r", self.label, beat)
            else:
                self.liveness.heard((ttl_ms - left) / 1000)
        if self.role == "agent":
            # A CJ that said bye ends its agent; an agent that did may be followed by another. An agent's epoch is its
            # start by Redis's clock: a bye before that was meant for its predecessors.
            self.liveness.closed(said.number(5) >= self.lease.epoch)
        if instance and instance != self.peer_instance:
            if self.peer_instance:
                logger.info("%s: the other side is now %s, was %s", self.label, instance, self.peer_instance)
            self.peer_instance = instance

    def _look_after(self) -> None:
        """What has to be done from time to time: the list of agents, and the life of payloads."""
        now = time.monotonic()
        try:
            if self.role == "agent" and now - self._registered >= _REGISTER_EVERY:
                self._registered = now
                with self.server.borrow(self.federation.agents) as connection:
                    self.scripts.register(connection, self.federation.agents)
            if self._held_blobs and now - self._renewed >= self.settings.policy.retention / 4:
                for ref in list(self._held_blobs.values()):
                    redis_store.renew(self.server, ref, self.settings.policy.retention_ms, deadline=now)
                self._renewed = now
        except RedflareError as exc:
            # what the heartbeat has told must be heeded all the same
            logger.warning("%s: not registered, or payloads not renewed: %s", self.label, exc)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.keys.fqcn} epoch {self.lease.epoch}, peer {self.peer.value}>"
