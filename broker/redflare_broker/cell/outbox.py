"""What a cell writes: many messages in one round trip, without a thread of its own.

Whoever sends while nobody writes becomes the writer, and writes what others have queued meanwhile in one pipeline
(one for each node on a cluster); the others need not wait. While Redis is away a thread of the pool goes on trying.
A pipeline that broke is written again: every message may arrive twice, and its receiver knows that.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from redflare_broker.errors import RedflareError, Unavailable
from redflare_broker.scripts.script import eval_command, run_pipeline
from redflare_broker.transport.cluster_slots import Address
from redflare_broker.transport.replies import Arg, RedisReply, ReplyError, require
from redflare_broker.transport.server import Server
from redflare_broker.util.thread_pool import ElasticThreadPool

logger = logging.getLogger(__name__)

#: Messages in one round trip.
_MOST: Final = 256
#: Round trips that a thread makes for others before a thread of the pool takes over.
_ROUNDS: Final = 8
_FIRST_BACKOFF: Final = 0.05
_LONGEST_BACKOFF: Final = 1.0


@dataclass(slots=True, kw_only=True, eq=False)
class OutboundMessage:
    """One message to be written, and what goes with it."""

    #: A key on the node that ``post`` is for.
    route: str = ""
    #: The command that writes the message; None: there is none.
    post: list[Arg] | None = None
    #: Commands that must have run before, and a key on the node that they are for.
    before: Sequence[list[Arg]] = ()
    before_route: str = ""
    #: Entries of the own inbox that may go afterwards.
    deletes: list[str] = field(default_factory=list)
    #: Told the reply to ``post`` (None: there was none), or the error that Redis has refused it with.
    done: Callable[[RedisReply | RedflareError], None] | None = None


class Outbox:
    """Writes letters in the order in which they were sent; thread-safe.

    Args:
        inbox: the own inbox.
        settle: makes the command that deletes entries of it that were dealt with.
        pool: lends a thread.
    """

    def __init__(
        self, server: Server, inbox: str, settle: Callable[[Sequence[str]], list[Arg]], pool: ElasticThreadPool
    ) -> None:
        self._server = server
        self._inbox = inbox
        self._settle = settle
        self._pool = pool
        self._changed = threading.Condition()
        self._queue: list[OutboundMessage] = []
        self._writing = False
        self._closed = False
        self._deadline: float | None = None
        #: entries of the own inbox that are still to be deleted
        self._deletes: list[str] = []
        #: scripts that a node knows already, by node and digest
        self._known: set[tuple[str, Arg]] = set()

    def send(self, letter: OutboundMessage, *, here: bool = True) -> None:
        """Write a letter soon; ``here``: this thread may be the one that writes. After ``close`` it is dropped."""
        with self._changed:
            if self._closed:
                return
            self._queue.append(letter)
            if self._writing:
                return
            self._writing = True
        if here:
            self._work(_ROUNDS)
        elif not self._pool.submit(self._work):
            self._work()

    def finish(self, deadline: float) -> None:
        """Go on for as long as there is something to write, at most until this moment of ``time.monotonic()``."""
        with self._changed:
            self._deadline = deadline
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._writing, max(deadline - time.monotonic(), 0.0))

    def close(self) -> int:
        """Write no more; how many letters were left."""
        with self._changed:
            self._closed = True
            left, self._queue = len(self._queue), []
            self._changed.notify_all()
        return left

    def _work(self, rounds: int = 0) -> None:
        """Write until nothing is queued; with ``rounds`` a thread of the pool takes over after so many."""
        failures = done = 0
        while batch := self._take():
            try:
                undelivered = self._deliver(batch)
            except Exception as exc:
                logger.exception("%s: %d messages cannot be written", self._inbox, len(batch))
                for letter in batch:
                    self._tell(letter, exc if isinstance(exc, RedflareError) else RedflareError(str(exc)))
                continue
            except BaseException:
                # a Ctrl-C in a user's thread, which wrote for others too
                if self._put_back(batch) and not self._pool.submit(self._work):
                    self._stop_writing()
                raise
            done += 1
            failures = failures + 1 if undelivered else 0
            if undelivered and not self._put_back(undelivered):
                return
            if (undelivered or done == rounds) and rounds and self._pool.submit(self._work):
                return
            if undelivered:
                self._pause(failures)

    def _take(self) -> list[OutboundMessage]:
        """What is to be written next; nothing: this thread writes no longer."""
        with self._changed:
            batch, self._queue = self._queue[:_MOST], self._queue[_MOST:]
            if not batch:
                self._stop_writing()
            return batch

    def _stop_writing(self) -> None:
        with self._changed:
            self._writing = False
            self._changed.notify_all()

    def _put_back(self, letters: list[OutboundMessage]) -> bool:
        """Queue what could not be written in front; False: there is no time left for it."""
        with self._changed:
            late = self._deadline is not None and time.monotonic() >= self._deadline
            if not self._closed:
                self._queue = letters + self._queue
            if self._closed or late:
                self._stop_writing()
                return False
            return True

    def _pause(self, failures: int) -> None:
        longest = min(_FIRST_BACKOFF * 2 ** min(failures, 10), _LONGEST_BACKOFF)
        until = time.monotonic() + longest * random.uniform(0.5, 1.0)
        with self._changed:
            if self._deadline is not None:
                until = min(until, self._deadline)
            while not self._closed and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)

    # -- one round -----------------------------------------------------------------------------------------------------

    def _deliver(self, batch: list[OutboundMessage]) -> list[OutboundMessage]:
        """Write these; those that could not be, because their node is away."""
        if not self._server.cluster:
            return self._deliver_together(batch)
        failed = []
        ready = []
        for letter in batch:
            if letter.before and not self._run_before(letter):
                failed.append(letter)
            else:
                ready.append(letter)
        groups: dict[Address | None, list[OutboundMessage]] = {}
        for letter in ready:
            try:
                groups.setdefault(self._server.node(letter.route) if letter.post else None, []).append(letter)
            except Unavailable:
                failed.append(letter)
        for node, letters in groups.items():
            posts = [letter.post for letter in letters if letter.post]
            try:
                replies = self._exchange(letters[0].route, posts) if node is not None else []
            except Unavailable as exc:
                logger.debug("%s: %s", self._inbox, exc)
                failed += letters
                continue
            self._tell_all(letters, replies)
            self._deletes += [entry for letter in letters for entry in letter.deletes]
        self._delete()
        return failed

    def _deliver_together(self, batch: list[OutboundMessage]) -> list[OutboundMessage]:
        commands: list[list[Arg]] = []
        for letter in batch:
            commands += letter.before
            if letter.post:
                commands.append(letter.post)
        deletes = self._deletes + [entry for letter in batch for entry in letter.deletes]
        if deletes:
            commands.append(self._settle(deletes))
        try:
            replies = self._exchange(self._inbox, commands) if commands else []
        except Unavailable as exc:
            logger.debug("%s: %s", self._inbox, exc)
            return batch
        self._deletes = []
        posts = []
        at = 0
        for letter in batch:
            self._check_before(letter, replies[at : at + len(letter.before)])
            at += len(letter.before)
            if letter.post:
                posts.append(replies[at])
                at += 1
        self._tell_all(batch, posts)
        return []

    def _run_before(self, letter: OutboundMessage) -> bool:
        try:
            self._check_before(letter, self._exchange(letter.before_route or self._inbox, letter.before))
        except Unavailable:
            return False
        return True

    def _check_before(self, letter: OutboundMessage, replies: list[RedisReply]) -> None:
        for command, reply in zip(letter.before, replies, strict=True):
            if isinstance(reply, ReplyError):
                logger.error("%s: a step before a reply was refused (%.200r): %s", self._inbox, command[2:], reply)

    def _delete(self) -> None:
        if not self._deletes:
            return
        try:
            self._exchange(self._inbox, [self._settle(self._deletes)])
            self._deletes = []
        except Unavailable as exc:
            # they are known, should they be read again, and are deleted with the next
            logger.debug("%s: %s", self._inbox, exc)

    def _exchange(self, route: str, commands: Sequence[list[Arg]]) -> list[RedisReply]:
        """Run commands in one round trip, each script by its digest where the node knows it already."""
        try:
            with self._server.borrow(route) as connection:
                sent = [self._prepared(connection.node, command) for command in commands]
                return run_pipeline(connection, sent)
        except Unavailable:
            # whatever comes back may be another server
            self._known.clear()
            raise

    def _prepared(self, node: str, command: list[Arg]) -> list[Arg]:
        if command[0] != "EVALSHA" or (node, command[1]) in self._known:
            return command
        self._known.add((node, command[1]))
        try:
            return eval_command(command)
        except KeyError:  # none of ours
            return command

    def _tell_all(self, letters: list[OutboundMessage], posts: list[RedisReply]) -> None:
        told = iter(posts)
        for letter in letters:
            try:
                self._tell(letter, require(next(told), self._inbox) if letter.post else None)
            except RedflareError as exc:
                self._tell(letter, exc)

    def _tell(self, letter: OutboundMessage, what: RedisReply | RedflareError) -> None:
        if letter.done is None:
            if isinstance(what, RedflareError):
                logger.error("%s: a message to %s was refused: %s", self._inbox, letter.route, what)
            return
        try:
            letter.done(what)
        except Exception:
            logger.exception("%s: what follows a message to %s failed", self._inbox, letter.route)

    def __repr__(self) -> str:
        return f"<Outbox of {self._inbox}, {len(self._queue)} to write{', closed' if self._closed else ''}>"
