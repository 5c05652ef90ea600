"""What both sides of a link have in common: identity, steps that survive a lost connection, and interruptible reads.

One thread at a time works on a link's lane (the caller that is blocked in ``get_task`` or ``execute``); the heartbeat
thread and the listener use lanes of their own and only set flags and call ``nudge``. A read therefore ends by an entry,
by its timeout, or by a nudge, after which the caller looks at the flags again.
"""

from __future__ import annotations

import logging
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import orjson

from . import blobs
from .codec import Encoded, Plan, plan
from .connection import Server
from .defs import PROTOCOL_VERSION
from .entry import BlobRef, Entry
from .errors import DecodeError, Fenced, Interrupted, RedflareError, Unavailable
from .keys import Keys, LinkKeys
from .lane import Lane
from .liveness import Liveness, Peer
from .replies import Arg, Reply, require
from .scripts import BURIED, FENCED, LOST, Answer, Instance, LinkScripts, Role, answer
from .settings import LinkSettings

logger = logging.getLogger(__name__)

#: Buffers that may stand in one entry; Lua passes at most some thousand arguments on.
_INLINE_BUFFERS: Final = 256
#: Entries read at once. There is one, or a few when somebody else wrote into the stream.
_READ_COUNT: Final = 64
#: Seconds beyond BLOCK after which a silent server counts as away.
_MARGIN: Final = 5.0
_FIRST_BACKOFF: Final = 0.05
_LONGEST_BACKOFF: Final = 1.0
_REGISTER_EVERY: Final = 30.0


class Link:
    """One side of the link of the agent ``fqcn``.

    Args:
        liveness: judges the other side.
        on_news: called from the heartbeat thread after each beat; look at ``fenced``, ``peer``, ``epoch``.
    """

    role: Role

    def __init__(
        self, server: Server, fqcn: str, settings: LinkSettings, liveness: Liveness, on_news: Callable[[], None]
    ) -> None:
        self.server = server
        self.settings = settings
        self.keys: LinkKeys = Keys(settings.namespace).link(fqcn)
        self.scripts = LinkScripts(keys=self.keys, publish=server.publish, policy=settings.policy)
        self.liveness = liveness
        self.me = Instance(role=self.role, name=f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}")
        self.fenced = False
        #: Seconds between two heartbeats.
        self.interval = settings.heartbeat_interval
        #: The task this side works on, and its status when the last beat looked.
        self.task_id: str | None = None
        self.task_status = ""
        self.peer_instance = ""
        self._on_news = on_news
        self._agents = Keys(settings.namespace).agents
        self._registered = -_REGISTER_EVERY
        self._renewed = time.monotonic()
        self._held_blobs: dict[str, BlobRef] = {}
        self._lane: Lane | None = None
        self._blocked: Lane | None = None
        #: Seconds the server may take for a read that was begun and is not finished; None: the lane is in step.
        self._owed: float | None = None
        self._nudged = False
        #: re-entrant, since a signal handler may nudge while its own thread is in here
        self._guard = threading.RLock()
        self._nudge_event = threading.Event()
        self._resuming = threading.Lock()

    # -- identity ------------------------------------------------------------------------------------------------------

    def hello(self, lane: Lane, seen: int) -> None:
        """Take this side over, or resume after Redis lost it. ``seen``: the epoch that was found wanting.

        Raises:
            Fenced: a newer instance is there.
        """
        with self._resuming:
            if self.me.epoch != seen:
                return
            said = self.scripts.hello(lane, self.me)
            if said.word == FENCED:
                self._fence()
            if seen:
                logger.warning("%s: Redis had lost this link; resumed with epoch %s", self.label, said.number())
            self.me = replace(self.me, epoch=said.number())

    def _fence(self) -> None:
        self.fenced = True
        self.nudge()
        raise Fenced(f"{self.label}: a newer instance has taken over this link; {self.me.name} must stop")

    @property
    def label(self) -> str:
        """Who this is, for the log."""
        return f"{self.role} of {self.keys.fqcn}"

    @property
    def peer(self) -> Peer:
        return self.liveness.state

    # -- steps and reads -----------------------------------------------------------------------------------------------

    def step(self, take: Callable[[Lane, Instance], Answer]) -> Answer:
        """Run one script on this link's lane; resumes once when Redis has lost the link.

        Raises:
            Unavailable: the server is away; the lane is dropped. The step is safe to repeat.
            Fenced: a newer instance has taken over.
        """
        lane = self._lane_in_step()
        try:
            for _ in range(3):
                me = self.me
                said = take(lane, me)
                if said.word == FENCED:
                    self._fence()
                if said.word != LOST:
                    return said
                self.hello(lane, me.epoch)
        except Unavailable:
            self.drop_lane()
            raise
        raise Unavailable(f"{self.label}: Redis keeps losing this link")

    def read(
        self, stream: str, after: str, timeout: float, then: list[Arg] | None = None
    ) -> tuple[list[tuple[str, list[bytes]]], Reply]:
        """Entries after an id, as soon as there are any; none on timeout (seconds) and after a nudge.

        Args:
            then: a command to run right after the read, in the same round trip; its reply comes second, None when it
                was not run.

        Raises:
            Unavailable: the connection broke; read again from the id "0".
        """
        lane = self.open_lane()
        with self._guard:
            if self._was_nudged():
                return [], None
            self._blocked = lane
        try:
            if self._owed is None:
                self._owed, request = self._xread(stream, after, timeout)
                lane.send([request] if then is None else [request, then])
            found = require(lane.receive(self._owed), lane.node)
            self._owed = None
            return _entries(found), None if then is None else lane.receive()
        except Unavailable:
            self.drop_lane()
            with self._guard:
                if self._was_nudged():
                    return [], None
            raise
        except BaseException:
            # whatever broke in, replies are still to come on this lane
            self.drop_lane()
            raise
        finally:
            with self._guard:
                self._blocked = None

    def step_and_read(self, command: list[Arg], stream: str, after: str, timeout: float) -> Reply:
        """Run a command and begin a read, which the next ``read`` finishes, in one round trip; the command's reply.

        A caller that does not go on to read drops the lane.

        Raises:
            Unavailable: as ``step``.
        """
        lane = self._lane_in_step()
        try:
            self._owed, request = self._xread(stream, after, timeout)
            lane.send([command, request])
            return lane.receive()
        except BaseException:
            self.drop_lane()
            raise

    def _xread(self, stream: str, after: str, timeout: float) -> tuple[float, list[Arg]]:
        """How many seconds the server may be silent, and the command."""
        block = max(1, round(min(timeout, self.settings.block) * 1000))
        return block / 1000 + _MARGIN, ["XREAD", "COUNT", _READ_COUNT, "BLOCK", block, "STREAMS", stream, after]

    def _was_nudged(self) -> bool:
        """Take a nudge, if there is one; the caller holds the guard."""
        nudged, self._nudged = self._nudged, False
        if nudged:
            self._nudge_event.clear()
        return nudged

    def nudge(self) -> None:
        """From any thread: the current read, or else the next, ends at once and empty."""
        with self._guard:
            self._nudged = True
            self._nudge_event.set()
            if self._blocked is not None:
                self._blocked.interrupt()

    def pause(self, failures: int) -> None:
        """Wait after the given number of failures in a row; a nudge ends it."""
        longest = min(_FIRST_BACKOFF * 2 ** min(failures, 10), _LONGEST_BACKOFF)
        self._nudge_event.wait(longest * random.uniform(0.5, 1.0))

    def open_lane(self) -> Lane:
        """The lane of the working thread; says hello on first use.

        Raises:
            Unavailable: no connection can be made now.
        """
        if self.fenced:
            raise Fenced(f"{self.label}: a newer instance has taken over this link")
        if self._lane is None or self._lane.closed:
            self._lane = self.server.lane(self.keys.link)
        if self.me.epoch == 0:
            try:
                self.hello(self._lane, 0)
            except Unavailable:
                self.drop_lane()
                raise
        return self._lane

    def _lane_in_step(self) -> Lane:
        """The lane, or another one when a read that was begun on it was not finished."""
        if self._owed is not None:
            self.drop_lane()
        return self.open_lane()

    def drop_lane(self) -> None:
        """Forget the lane; the next step opens another."""
        self._owed = None
        if self._lane is not None:
            self._lane.close()
            self._lane = None

    def close(self, *, bye: bool) -> None:
        """Leave; with ``bye`` the other side is told, if Redis can be reached now. Safe to call twice."""
        self.nudge()
        if bye and not self.fenced and self.me.epoch:
            try:
                with self.server.borrow(self.keys.link) as lane:
                    self.scripts.bye(lane, self.me)
            except RedflareError as exc:
                logger.warning("%s: could not say bye, its keys will expire: %s", self.label, exc)

    # -- payload -------------------------------------------------------------------------------------------------------

    def payload(self, encoded: Encoded, prefix: str) -> tuple[tuple[memoryview, ...], BlobRef | None]:
        """Where a message's buffers go: into its entry when it is small, else into blob chunks, written now."""
        limits = self.settings.limits
        if encoded.nbytes <= limits.inline_bytes and len(encoded.buffers) <= _INLINE_BUFFERS:
            return tuple(encoded.buffers), None
        # one attempt: the caller's loop repeats it, and asks in between whether it is still wanted
        ref = blobs.put(
            self.server,
            prefix,
            encoded.buffers,
            chunk=limits.chunk_bytes,
            ttl_ms=self.settings.policy.retention_ms,
            deadline=time.monotonic(),
        )
        self._held_blobs[prefix] = ref
        return (), ref

    def decode(self, entry: Entry) -> Plan:
        """Receive an entry's buffers.

        Raises:
            DecodeError: the entry is not what it claims to be.
            BlobMissing: its payload is gone.
            Unavailable: try again.
        """
        limits = self.settings.limits
        if entry.blob is not None:
            blobs.check_ref(entry.blob, limits)
            received = plan(entry.meta, entry.data, entry.blob.sizes, limits)
            blobs.fetch(self.server, entry.blob, received.targets, deadline=time.monotonic())
            return received
        received = plan(entry.meta, entry.data, [len(buffer) for buffer in entry.buffers], limits)
        for target, buffer in zip(received.targets, entry.buffers, strict=True):
            target[:] = buffer
        return received

    def parse(self, stream: str, entry_id: str, fields: list[bytes]) -> Entry | None:
        """An entry, or None after it was moved to the dead-letter stream because it is none of ours."""
        prefixes = (self.keys.result_blob(""), f"{self.keys.namespace}:blob:{{")
        try:
            return Entry.parse(stream, entry_id, fields, allowed_prefixes=prefixes)
        except DecodeError as exc:
            self.bury(stream, entry_id, str(exc))
            return None

    def bury(self, stream: str, entry_id: str, reason: str) -> None:
        """Move an entry to the dead-letter stream."""
        if self.step(lambda lane, _: self.scripts.bury(lane, stream, entry_id, reason)).word == BURIED:
            logger.error("%s: entry %s of %s is now in %s: %s", self.label, entry_id, stream, self.keys.dead, reason)

    def release_blob(self, ref: BlobRef | None) -> None:
        """Delete a payload that nobody needs any more; one that cannot be reached now expires."""
        if ref is None:
            return
        self._held_blobs.pop(ref.prefix, None)
        try:
            blobs.remove(self.server, ref, deadline=time.monotonic())
        except RedflareError as exc:
            logger.warning("%s: payload %s is left to expire: %s", self.label, ref.prefix, exc)

    def hand_over_blob(self, ref: BlobRef) -> None:
        """The other side keeps and deletes this payload from now on."""
        self._held_blobs.pop(ref.prefix, None)

    # -- heartbeat thread ----------------------------------------------------------------------------------------------

    @property
    def route(self) -> str:
        return self.keys.link

    def beat(self) -> list[Arg]:
        """The heartbeat as a command."""
        ttl_ms = round(self.settings.heartbeat_ttl * 1000)
        host, pid, _ = self.me.name.rsplit(":", 2)
        beat = {
            "instance": self.me.name,
            "epoch": self.me.epoch,
            "host": host,
            "pid": int(pid),
            "interval": self.interval,
            "ttl_ms": ttl_ms,
            "task": self.task_id or "",
            "version": PROTOCOL_VERSION,
        }
        return self.scripts.beat_command(self.me, orjson.dumps(beat), ttl_ms, self.task_id)

    def on_beat(self, reply: Reply) -> None:
        """What Redis answered to a heartbeat."""
        said = answer("beat", reply)
        if said.word == FENCED:
            self.fenced = True
        elif said.word == LOST:
            self._resume()
        else:
            self.task_status = said.text(1)
            self._hear(said)
            self._look_after()
        self.judge()

    def on_silence(self, error: RedflareError) -> None:
        """A heartbeat could not be sent."""
        logger.debug("%s: no heartbeat: %s", self.label, error)
        self.judge()

    def judge(self) -> None:
        """Recompute the peer's state, log a change, and tell the owner."""
        if self.liveness.judge():
            logger.info("%s: the other side is %s", self.label, self.liveness.state.value)
        self._on_news()

    def _resume(self) -> None:
        try:
            with self.server.borrow(self.keys.link) as lane:
                self.hello(lane, self.me.epoch)
        except Fenced:
            pass
        self.nudge()

    def _hear(self, said: Answer) -> None:
        """``said``: open task id, status, peer's beat, its PTTL, peer's instance, peer closed."""
        instance, left = said.text(4), said.number(3)
        if beat := said.text(2):
            try:
                ttl_ms = int(orjson.loads(beat)["ttl_ms"])
            except (ValueError, KeyError, TypeError):
                logger.warning("%s: the other side's heartbeat is not one: %.200r", self.label, beat)
            else:
                self.liveness.heard((ttl_ms - left) / 1000)
        if self.role == "agent":
            # a CJ that said bye ends its agent; an agent that did may be followed by another
            self.liveness.closed(said.number(5) == 1)
        if instance and instance != self.peer_instance:
            if self.peer_instance:
                logger.info("%s: the other side is now %s, was %s", self.label, instance, self.peer_instance)
            self.peer_instance = instance

    def _look_after(self) -> None:
        """What has to be done from time to time: the list of agents, and the life of payloads."""
        now = time.monotonic()
        if self.role == "agent" and now - self._registered >= _REGISTER_EVERY:
            with self.server.borrow(self._agents) as lane:
                self.scripts.register(lane, self._agents)
            self._registered = now
        if self._held_blobs and now - self._renewed >= self.settings.policy.retention / 4:
            for ref in list(self._held_blobs.values()):
                blobs.renew(self.server, ref, self.settings.policy.retention_ms, deadline=now)
            self._renewed = now

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.keys.fqcn} epoch {self.me.epoch}, peer {self.peer.value}>"


def _entries(reply: Reply) -> list[tuple[str, list[bytes]]]:
    """The entries of an XREAD reply of one stream."""
    if not isinstance(reply, list) or not reply:
        return []
    stream = reply[0]
    if not isinstance(stream, list) or not isinstance(stream[1], list):
        raise Interrupted(f"XREAD answered {reply!r}")
    found: list[tuple[str, list[bytes]]] = []
    for item in stream[1]:
        if isinstance(item, list) and isinstance(item[0], bytes) and isinstance(item[1], list):
            found.append((item[0].decode(), [value for value in item[1] if isinstance(value, bytes)]))
    return found
