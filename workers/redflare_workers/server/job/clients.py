"""The roster: the clients of a job as its server knows them, and which of them are silent.

The truth is the job's roll in Redis. It is read with each of the server's beats, and once more when a request names a
client, or an instance of one, that is not known here yet. What the roll tells of heartbeats becomes dead-client reports
and signs of life for the communicator.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Final

from redflare_broker.cell.request import HandlerResult, Request
from redflare_broker.job_state.members import Member

from redflare_workers.apis.client import Client
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.engine.peer_props import peer_context
from redflare_workers.protocol.job_messages import CLIENT, EPOCH, INSTANCE, NOT_JOINED, TOLD_FENCED

logger = logging.getLogger(__name__)

#: Heartbeats that may be missing before no task is handed to a client that waits for one.
_MISSED_BEATS: Final = 3


class Refused(Exception):
    """A request names a client that is not entitled to it."""

    def __init__(self, rc: str, reason: str) -> None:
        super().__init__(reason)
        self.rc = rc

    def answer(self, request: Request) -> HandlerResult:
        """What that client is told."""
        logger.warning("%s from %s is refused with %s: %s", request.topic, request.origin, self.rc, self)
        return self.rc, {"reason": str(self)}, None


@dataclass(slots=True, kw_only=True)
class _Known:
    """One client."""

    entry: Member
    client: Client
    peer: FLContext
    #: Its heartbeat is gone, and no other sign of life came since.
    gone: bool = False
    #: That was told to the communicator.
    reported: bool = False
    #: A thread is telling it something just now.
    telling: bool = False
    #: Beats are missing: nothing is handed to it.
    silent: bool = False


class JobClients:
    """The clients of one job. Thread-safe.

    Args:
        read_roll: reads the roll now; called when a request names somebody unknown.
        on_silent: the heartbeat of a client is gone, or it has left; called once until it is back.
        on_alive: it is back, with a reason.
        on_heard: a client to which nothing was handed because beats were missing may be handed something again.
        on_change: a client has joined, or left.
    """

    def __init__(
        self,
        job_id: str,
        read_roll: Callable[[], Iterable[Member]],
        on_silent: Callable[[str], None],
        on_alive: Callable[[str, str], None],
        on_heard: Callable[[str], object],
        on_change: Callable[[], None],
    ) -> None:
        self._job_id = job_id
        self._read_roll = read_roll
        self._on_silent = on_silent
        self._on_alive = on_alive
        self._on_heard = on_heard
        self._on_change = on_change
        self._guard = threading.Lock()
        self._known: dict[str, _Known] = {}

    def clients(self) -> list[Client]:
        """Those who have joined and not left, in the order in which they joined."""
        with self._guard:
            return [known.client for known in self._known.values() if not known.entry.left]

    def client_of(self, request: Request) -> tuple[Client, FLContext]:
        """Who asks, and the context of that client.

        Raises:
            Refused: it has not joined, or another process of that name has taken over.
        """
        name, instance, epoch = (request.meta.get(key) for key in (CLIENT, INSTANCE, EPOCH))
        known = self._known.get(name) if isinstance(name, str) else None
        if known is None or known.silent or known.entry.epoch != epoch or known.entry.instance != instance:
            # also for one that seemed silent: it may have beaten, or joined, since the roll was read
            self.update(self._read_roll())
            known = self._known.get(name) if isinstance(name, str) else None
        if known is None:
            raise Refused(NOT_JOINED, f"client {name!r:.200} has not joined job {self._job_id}")
        if known.entry.instance != instance or known.entry.epoch != epoch:
            newer = isinstance(epoch, int) and epoch > known.entry.epoch
            raise Refused(
                NOT_JOINED if newer else TOLD_FENCED,
                f"client {name!r} is {known.entry.instance} since {known.entry.joined} ms, not {instance!r:.200}",
            )
        with self._guard:
            if not known.entry.left:
                known.gone = False
        self._report(known, f"it has asked for {request.topic}")
        return known.client, known.peer

    def is_current(self, client: Client) -> bool:
        """Whether no other process has taken over its name."""
        known = self._known.get(client.name)
        return known is not None and known.client is client

    def introduce(self, client: Client, fl_ctx: FLContext, props: object = None) -> None:
        """Let controllers see in a context who asks, and which public props it has told of just now."""
        known = self._known.get(client.name)
        if known is not None:
            fl_ctx.set_peer_context(_peer(known.entry, self._job_id, props) if props else known.peer)

    def cell_of(self, name: str) -> str | None:
        """FQCN of the cell of a client; None: it is not known."""
        known = self._known.get(name)
        return known.entry.cell if known else None

    def by_cell(self, without: Collection[str] = ()) -> dict[str, list[str]]:
        """Names of the clients that have not left, by the FQCN of their cell; ``without`` are left out."""
        cells: dict[str, list[str]] = {}
        with self._guard:
            for name, known in self._known.items():
                if not known.entry.left and name not in without:
                    cells.setdefault(known.entry.cell, []).append(name)
        return cells

    def is_silent(self, name: str) -> bool:
        """Whether beats of a client are missing, so that nothing should be handed to it."""
        known = self._known.get(name)
        return known is None or known.silent

    def update(self, entries: Iterable[Member]) -> None:
        """What the roll tells now."""
        for entry in sorted(entries, key=lambda entry: entry.joined):
            with self._guard:
                before = self._known.get(entry.name)
                changed = before is None or bool(before.entry.left) is not bool(entry.left)
                client, silent = (before.client, before.silent) if before else (None, False)
                known = self._know(entry)
                if known.entry is not entry:
                    continue
                fresh = client is not known.client
                # one that has just joined may be about to beat for the first time
                known.gone = not entry.alive and (bool(entry.left) or not fresh)
                known.silent = not entry.alive or entry.missed_beats > _MISSED_BEATS
                # also when another process has taken over: the one that waits is to be told
                heard = (silent and not known.silent) or (fresh and client is not None)
            if changed:
                self._on_change()
            self._report(known, "its heartbeat is back")
            if heard:
                self._on_heard(entry.name)

    def _report(self, known: _Known, sign: str) -> None:
        """Tell whether a client is gone, if that has changed; one thread at a time, so that the last word is true."""
        while True:
            with self._guard:
                if known.telling or known.gone is known.reported:
                    return
                known.telling = True
                gone = known.reported = known.gone
            try:
                if gone:
                    self._on_silent(known.client.name)
                else:
                    self._on_alive(known.client.name, sign)
            finally:
                with self._guard:
                    known.telling = False

    def _know(self, entry: Member) -> _Known:
        known = self._known.get(entry.name)
        if known is not None and known.entry.epoch > entry.epoch:
            # a roll that was read earlier
            return known
        if known is None or known.entry.instance != entry.instance:
            what = "has joined" if known is None else f"has taken over from {known.entry.instance}"
            logger.info("client %s (%s on %s) %s", entry.name, entry.instance, entry.host, what)
        if known is None:
            client = Client(entry.name, entry.instance)
            known = self._known[entry.name] = _Known(entry=entry, client=client, peer=_peer(entry, self._job_id))
        elif known.entry.instance != entry.instance:
            known.client = Client(entry.name, entry.instance)
            known.peer = _peer(entry, self._job_id)
        known.entry = entry
        return known

    def __repr__(self) -> str:
        return f"<Roster of {len(self._known)} clients>"


def _peer(entry: Member, job_id: str, props: object = None) -> FLContext:
    """What a controller sees of the client that asks."""
    told = props if isinstance(props, dict) else {}
    return peer_context({**entry.props, **told}, entry.name, job_id)
