"""``Session``: one side of a link: who it is, steps that survive a lost connection, reads that can be interrupted.

One thread at a time works on a session's connection (the caller that is blocked in ``get_task`` or ``execute``). Other
threads only set flags and call ``nudge``: a read therefore ends by an entry, by its timeout, or by a nudge, after which
the caller checks the flags again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Final

from redflare_broker.config.settings import LinkSettings
from redflare_broker.errors import Fenced, RedflareError, ServerError, Unavailable
from redflare_broker.keys import Keys, LinkKeys
from redflare_broker.scripts.lease import Lease, Role
from redflare_broker.scripts.link_scripts import LinkScripts
from redflare_broker.scripts.script import FENCED, LOST, ScriptReply
from redflare_broker.transport.connection import Connection
from redflare_broker.transport.replies import Arg, RedisReply, entries_in, require
from redflare_broker.transport.server import Server
from redflare_broker.util.wakeup import WakeupEvent

logger = logging.getLogger(__name__)

#: Entries read at once. There is one, or a few when somebody else wrote into the stream.
_READ_COUNT: Final = 64
#: Seconds beyond BLOCK after which a silent Redis counts as away.
_MARGIN: Final = 5.0


class Session:
    """One side's session on the link of the agent ``fqcn``.

    Args:
        preflight: run before the first hello, however late Redis is reached for it; what it raises is raised.
    """

    def __init__(
        self,
        server: Server,
        fqcn: str,
        role: Role,
        settings: LinkSettings,
        preflight: Callable[[LinkKeys], object] = lambda keys: None,
    ) -> None:
        self.server = server
        self.settings = settings
        self.federation_keys = Keys(settings.namespace)
        self.keys: LinkKeys = self.federation_keys.link(fqcn)
        self.scripts = LinkScripts(keys=self.keys, publish=server.publish, policy=settings.policy)
        self.lease = Lease.of_this_process(role)
        #: Names this side in the log.
        self.label = f"{role} of {fqcn}"
        self.fenced = False
        #: How often Redis had lost this link, and it was resumed.
        self.losses = 0
        #: Id of the entry that was read last on this connection; "0" on a new one, which may be to a Redis that lost
        #: its streams, whose ids then begin anew. For the caller of ``read`` to set.
        self.cursor = "0"
        self._preflight = preflight
        self._connection: Connection | None = None
        self._blocked: Connection | None = None
        #: Seconds Redis may be silent about a read that was begun; None: none was, the connection is in step.
        self._begun: float | None = None
        self._nudged = False
        #: re-entrant, since a signal handler may nudge while its own thread is in here
        self._guard = threading.RLock()
        self._wakeup = WakeupEvent()
        self._resuming = threading.Lock()

    # -- identity ------------------------------------------------------------------------------------------------------

    def hello(self, connection: Connection, seen: int) -> None:
        """Take this side over, or resume after Redis lost it. ``seen``: the epoch that Redis did not know.

        Raises:
            Fenced: a newer instance has taken over.
            PreflightError: Redis is not fit.
        """
        with self._resuming:
            if self.lease.epoch != seen:
                return
            if not seen:
                self._preflight(self.keys)
            reply = self.scripts.hello(connection, self.lease)
            if reply.status == FENCED:
                self._fence()
            if seen:
                self.losses += 1
                logger.warning("%s: Redis had lost this link; resumed with epoch %s", self.label, reply.number())
            self.lease = replace(self.lease, epoch=reply.number())

    def bye(self, *, failed: bool = False) -> None:
        """Tell the other side that this one leaves, if Redis can be reached now; ``failed``: it ends by a fault."""
        if self.fenced or not self.lease.epoch:
            return
        try:
            with closing(self.server.connection(self.keys.link)) as connection:
                self.fenced = self.scripts.bye(connection, self.lease, failed=failed).status == FENCED
        except RedflareError as exc:
            logger.warning("%s: could not say bye, its keys will expire: %s", self.label, exc)

    def resume(self) -> None:
        """Say hello again after Redis lost this link, from any thread, and wake the working one."""
        try:
            with self.server.borrow(self.keys.link) as connection:
                self.hello(connection, self.lease.epoch)
        except RedflareError as exc:
            logger.debug("%s: not resumed: %s", self.label, exc)
        self.nudge()

    def _fence(self) -> None:
        self.fenced = True
        self.nudge()
        raise Fenced(f"{self.label}: a newer instance has taken over this link; {self.lease.instance} must stop")

    # -- steps and reads -----------------------------------------------------------------------------------------------

    def step(self, take: Callable[[Connection, Lease], ScriptReply]) -> ScriptReply:
        """Run one script on this link's connection; resume once when Redis has lost the link.

        Raises:
            Unavailable: Redis is away; the connection is dropped. The step is safe to repeat.
            Fenced: a newer instance has taken over.
        """
        connection = self._connection_in_step()
        try:
            for _ in range(3):
                lease = self.lease
                reply = take(connection, lease)
                if reply.status == FENCED:
                    self._fence()
                if reply.status != LOST:
                    return reply
                self.hello(connection, lease.epoch)
        except Unavailable:
            self.drop_connection()
            raise
        raise Unavailable(f"{self.label}: Redis keeps losing this link")

    def read(
        self, stream: str, after: str, timeout: float, then: Callable[[], list[Arg]] | None = None
    ) -> tuple[list[tuple[str, list[bytes]]], RedisReply]:
        """Return the entries after an id, as soon as one is there; none on timeout (seconds) and after a nudge.

        Args:
            then: makes a command to run right after the read, in the same round trip; its reply comes second, None when
                it was not run. A read that was begun has one already: its caller gives it here, too.

        Raises:
            Unavailable: the connection broke; read again from the id "0".
        """
        connection = self.open_connection()
        with self._guard:
            if self._was_nudged():
                return [], None
            self._blocked = connection
        try:
            if self._begun is None:
                connection.send(self._begin(stream, after, timeout, *([then()] if then else [])))
            found = require(connection.receive(self._begun), connection.node)
            follower = connection.receive() if then else None
            self._begun = None
            return _entries(found), follower
        except Unavailable:
            self.drop_connection()
            with self._guard:
                if self._was_nudged():
                    return [], None
            raise
        except BaseException:
            # whatever broke in, replies are still to come on this connection
            self.drop_connection()
            raise
        finally:
            with self._guard:
                self._blocked = None

    def step_and_read(self, command: list[Arg], stream: str, after: str, timeout: float, then: list[Arg]) -> RedisReply:
        """Run a command and begin a read, which the next ``read`` finishes, in one round trip; return its reply.

        A caller that does not go on to read drops the connection.

        Raises:
            Unavailable: as ``step``.
        """
        connection = self._connection_in_step()
        try:
            connection.send([command, *self._begin(stream, after, timeout, then)])
            return connection.receive()
        except BaseException:
            self.drop_connection()
            raise

    def _begin(self, stream: str, after: str, timeout: float, *then: list[Arg]) -> list[list[Arg]]:
        """Make the commands of a read, which counts as begun from now on."""
        block = max(1, round(min(timeout, self.settings.block) * 1000))
        self._begun = block / 1000 + _MARGIN
        return [["XREAD", "COUNT", _READ_COUNT, "BLOCK", block, "STREAMS", stream, after], *then]

    # -- waiting and waking --------------------------------------------------------------------------------------------

    def nudge(self) -> None:
        """From any thread: end the current read, or else the next, at once and empty."""
        with self._guard:
            self._nudged = True
            self._wakeup.set()
            if self._blocked is not None:
                self._blocked.interrupt()

    def pause(self, seconds: float) -> None:
        """Wait before the next attempt; a nudge ends it, and is used up by it: the caller checks its flags next."""
        self._wakeup.wait(seconds)
        with self._guard:
            self._was_nudged()

    def _was_nudged(self) -> bool:
        """Take a nudge, if one came; the caller holds the guard."""
        nudged, self._nudged = self._nudged, False
        if nudged:
            self._wakeup.clear()
        return nudged

    # -- the connection ------------------------------------------------------------------------------------------------

    def open_connection(self) -> Connection:
        """Return the connection of the working thread; say hello on first use.

        Raises:
            Unavailable: no connection can be made now.
        """
        if self.fenced:
            raise Fenced(f"{self.label}: a newer instance has taken over this link")
        if self._connection is not None and self._connection.closed:
            self.drop_connection()
        if self._connection is None:
            self._connection = self.server.connection(self.keys.link)
        if self.lease.epoch == 0:
            try:
                self.hello(self._connection, 0)
            except Unavailable:
                self.drop_connection()
                raise
        return self._connection

    def _connection_in_step(self) -> Connection:
        """Return the connection, or another one when a read that was begun on it was not finished."""
        if self._begun is not None:
            self.drop_connection()
        return self.open_connection()

    def drop_connection(self) -> None:
        """Close and forget the connection; the next step opens another."""
        self._begun = None
        self.cursor = "0"
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __repr__(self) -> str:
        return f"<Session {self.label}, epoch {self.lease.epoch}{', fenced' if self.fenced else ''}>"


def _entries(reply: RedisReply) -> list[tuple[str, list[bytes]]]:
    """Return the entries of an XREAD reply of one stream."""
    if not isinstance(reply, list) or not reply:
        return []
    stream = reply[0]
    if not isinstance(stream, list) or not isinstance(stream[1], list):
        raise ServerError(f"XREAD answered {reply!r}, which is no list of entries")
    return entries_in(stream[1])
