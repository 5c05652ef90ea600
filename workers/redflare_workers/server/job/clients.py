"""``JobClients``: the clients of a job as its server knows them, and which of them are silent.

The truth is the job's member list in Redis. It is read with each of the server's heartbeats, and once more when a
request names a client, or an instance of one, that is not known here yet. Heartbeats in it that are missing or back
become dead-client reports and signs of life for the communicator.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Final, Protocol

from redflare_broker.cell.request import HandlerResult, Request
from redflare_broker.job_state.members import Member

from redflare_workers.apis.client import Client
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.engine.peer_props import peer_context
from redflare_workers.protocol.job_messages import RC_FENCED, RC_NOT_JOINED, Credentials, Refusal
from redflare_workers.protocol.message import WRONG_SENDER

logger = logging.getLogger(__name__)

#: Heartbeats that may be missing before no task is handed to a client that waits for one.
_MISSED_BEATS: Final = 3


class Refused(Exception):
    """A request comes from a process that is not a member of the job."""

    def __init__(self, rc: str, reason: str) -> None:
        super().__init__(reason)
        self.rc = rc

    def answer(self, request: Request) -> HandlerResult:
        """Log the refusal and return the reply."""
        request.note_fault(
            f"refused with {self.rc}", f"{request.topic} from {request.origin} is refused with {self.rc}: {self}"
        )
        return self.rc, Refusal(reason=str(self)).to_meta(), None


class ClientListener(Protocol):
    """Hears of changes among the clients of a job."""

    def on_silent(self, name: str) -> None:
        """Handle that the heartbeat of a client is gone, or that it has left; called once until it is back."""

    def on_alive(self, name: str, sign: str) -> None:
        """Handle that a silent client is back."""

    def on_heard(self, name: str) -> None:
        """Let a client that was skipped because heartbeats were missing be given a task again."""

    def on_change(self) -> None:
        """Handle that a client has joined, or left."""


@dataclass(slots=True, kw_only=True)
class _Known:
    """One client."""

    entry: Member
    client: Client
    peer: FLContext
    #: Its heartbeat is gone, and no other sign of life has come since.
    gone: bool = False
    #: The listener knows that.
    reported: bool = False
    #: A thread is calling the listener for it just now.
    reporting: bool = False
    #: Heartbeats are missing: it is given no task.
    silent: bool = False


@dataclass(slots=True, eq=False)
class JobClients:
    """The clients of one job. Thread-safe."""

    job_id: str
    #: reads the member list; called when a request names an unknown client
    read_members: Callable[[], Iterable[Member]]
    #: hears of changes
    listener: ClientListener
    _guard: threading.Lock = field(default_factory=threading.Lock, init=False)
    _known: dict[str, _Known] = field(default_factory=dict, init=False)

    def clients(self) -> list[Client]:
        """Return the clients that have joined and not left, in the order in which they joined."""
        with self._guard:
            return [known.client for known in self._known.values() if not known.entry.left]

    def client_named(self, name: str) -> Client:
        """Return the client of that name; a new one without a token if it has not joined."""
        return next((client for client in self.clients() if client.name == name), Client(name, ""))

    def client_of(self, credentials: Credentials, topic: str, origin: str) -> tuple[Client, FLContext]:
        """Identify the client that sends a request, and its context.

        Args:
            origin: FQCN of the cell that the request comes from.

        Raises:
            Refused: it has not joined, another process of that name has taken over, or it is of another cell.
        """
        name, instance, epoch = credentials.client, credentials.instance, credentials.epoch
        known = self._known.get(name)
        if known is None or known.silent or known.entry.epoch != epoch or known.entry.instance != instance:
            # also for one that seemed silent: it may have joined, or sent a heartbeat, since the list was read
            self.update(self.read_members())
            known = self._known.get(name)
        if known is None:
            raise Refused(RC_NOT_JOINED, f"client {name!r:.200} has not joined job {self.job_id}")
        if known.entry.instance != instance or known.entry.epoch != epoch:
            newer = epoch > known.entry.epoch
            current = known.entry.instance
            raise Refused(
                RC_NOT_JOINED if newer else RC_FENCED,
                f"client {name!r}: process {instance!r:.200} must join first, as {current} has"
                if newer
                else f"client {name!r}: process {current} has replaced {instance!r:.200}, which must stop",
            )
        if known.entry.cell != origin:
            text = f"client {name!r} is served by cell {known.entry.cell}, not by {origin}"
            raise Refused(WRONG_SENDER, text)
        with self._guard:
            if not known.entry.left:
                known.gone = False
        self._report(known, f"it has sent {topic}")
        return known.client, known.peer

    def is_current(self, client: Client) -> bool:
        """Whether no other process has taken over its name."""
        known = self._known.get(client.name)
        return known is not None and known.client is client

    def introduce(self, client: Client, fl_ctx: FLContext, props: object = None) -> None:
        """Put the client into a context as the peer, with the public props of its request."""
        known = self._known.get(client.name)
        if known is not None:
            fl_ctx.set_peer_context(_peer(known.entry, self.job_id, props) if props else known.peer)

    def cell_of(self, name: str) -> str | None:
        """FQCN of the cell of a client; None: it is not known."""
        known = self._known.get(name)
        return known.entry.cell if known else None

    def find_cell(self, name: str) -> str | None:
        """``cell_of``, also for a client that has joined since the member list was read."""
        if self.cell_of(name) is None:
            self.update(self.read_members())
        return self.cell_of(name)

    def by_cell(self, without: Collection[str] = ()) -> dict[str, list[str]]:
        """Names of the clients that have not left, by the FQCN of their cell; ``without`` are left out."""
        cells: dict[str, list[str]] = {}
        with self._guard:
            for name, known in self._known.items():
                if not known.entry.left and name not in without:
                    cells.setdefault(known.entry.cell, []).append(name)
        return cells

    def instances(self, names: Iterable[str]) -> list[str]:
        """Return the instances of the processes of these clients, each once."""
        with self._guard:
            return sorted({self._known[name].entry.instance for name in names})

    def is_silent(self, name: str) -> bool:
        """Whether heartbeats of a client are missing, so that it should be given no task."""
        known = self._known.get(name)
        return known is None or known.silent

    def update(self, entries: Iterable[Member]) -> None:
        """Apply the current member list."""
        for entry in sorted(entries, key=lambda entry: entry.joined):
            with self._guard:
                before = self._known.get(entry.name)
                changed = before is None or bool(before.entry.left) is not bool(entry.left)
                client, silent = (before.client, before.silent) if before else (None, False)
                known = self._know(entry)
                if known.entry is not entry:
                    continue
                fresh = client is not known.client
                # one that has just joined may be about to send its first heartbeat
                known.gone = not entry.alive and (bool(entry.left) or not fresh)
                known.silent = not entry.alive or entry.missed_beats > _MISSED_BEATS
                # also when another process has taken over: the request of the older one must be refused
                heard = (silent and not known.silent) or (fresh and client is not None)
            if changed:
                self.listener.on_change()
            self._report(known, "its heartbeat is back")
            if heard:
                self.listener.on_heard(entry.name)

    def _report(self, known: _Known, sign: str) -> None:
        """Tell the listener if a client is gone or back; one thread at a time, so that the last call is true."""
        while True:
            with self._guard:
                if known.reporting or known.gone is known.reported:
                    return
                known.reporting = True
                gone = known.reported = known.gone
            try:
                if gone:
                    self.listener.on_silent(known.client.name)
                else:
                    self.listener.on_alive(known.client.name, sign)
            finally:
                with self._guard:
                    known.reporting = False

    def _know(self, entry: Member) -> _Known:
        known = self._known.get(entry.name)
        if known is not None and known.entry.epoch > entry.epoch:
            # the list was read earlier
            return known
        if known is None or known.entry.instance != entry.instance:
            what = "has joined" if known is None else f"has taken over from {known.entry.instance}"
            logger.info("client %s (%s on %s) %s", entry.name, entry.instance, entry.host, what)
        if known is None:
            client = Client(entry.name, entry.instance)
            known = self._known[entry.name] = _Known(entry=entry, client=client, peer=_peer(entry, self.job_id))
        elif known.entry.instance != entry.instance:
            known.client = Client(entry.name, entry.instance)
            known.peer = _peer(entry, self.job_id)
        known.entry = entry
        return known

    def __repr__(self) -> str:
        return f"<JobClients, {len(self._known)} known>"


def _peer(entry: Member, job_id: str, props: object = None) -> FLContext:
    """Return the peer context of a client."""
    sent = props if isinstance(props, dict) else {}
    return peer_context({**entry.props, **sent}, entry.name, job_id)
