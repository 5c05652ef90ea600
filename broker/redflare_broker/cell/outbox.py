"""``Outbox``: writes a cell's messages, many in one round trip, in the threads that send them.

A thread that sends while no other writes becomes the writer, and writes the messages that others have queued meanwhile
in one pipeline (one for each node on a cluster); the others need not wait. While Redis is unreachable a thread of the
pool keeps trying. A pipeline that broke is written again: a message may arrive twice, and its receiver expects that.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from redflare_broker.errors import RedflareError, Unavailable
from redflare_broker.keys import CellKeys
from redflare_broker.scripts.script import eval_command, run_pipeline
from redflare_broker.transport.cluster_slots import Address
from redflare_broker.transport.replies import Arg, Kind, RedisReply, ReplyError, require
from redflare_broker.transport.server import Server
from redflare_broker.util.backoff import Backoff
from redflare_broker.util.thread_pool import ElasticThreadPool
from redflare_broker.wire.task_entry import BlobRef

logger = logging.getLogger(__name__)

#: Messages in one round trip.
_MOST: Final = 256
#: Round trips that a thread makes for others before a thread of the pool takes over.
_ROUNDS: Final = 8


@dataclass(slots=True, kw_only=True, eq=False)
class OutboundMessage:
    """One message to be written, and the commands that go with it."""

    #: A key on the node that ``post`` is for.
    route: str = ""
    #: The command that writes the message; None: there is none.
    post: list[Arg] | None = None
    #: Commands that must have run before, and a key on the node that they are for.
    before: Sequence[list[Arg]] = ()
    before_route: str = ""
    #: Entries that may go afterwards: an inbox of the own cell, and an id.
    deletes: list[tuple[str, str]] = field(default_factory=list)
    #: Chunks that are for whoever reads the message.
    unread: BlobRef | None = None
    #: Called with the reply to ``post`` (None: there was no ``post``), or with the error of Redis.
    done: Callable[[RedisReply | RedflareError], None] | None = None


class Outbox:
    """Writes messages in the order in which they were sent; thread-safe.

    Args:
        keys: of the own cell.
        settle: makes the command that deletes handled entries of its inboxes.
        pool: lends a thread.
    """

    def __init__(
        self,
        server: Server,
        keys: CellKeys,
        settle: Callable[[Sequence[tuple[str, str]]], list[Arg]],
        pool: ElasticThreadPool,
    ) -> None:
        self._server = server
        self._name = keys.fqcn
        self._route = keys.cell
        self._settle = settle
        self._pool = pool
        self._guard = threading.RLock()
        self._changed = threading.Condition(self._guard)
        self._queue: list[OutboundMessage] = []
        #: the writer's
        self._backoff = Backoff(first=0.1)
        self._writing = False
        self._closed = False
        self._deadline: float | None = None
        #: entries of the own inboxes that are still to be deleted
        self._deletes: list[tuple[str, str]] = []
        #: scripts that a node knows already, by node and digest
        self._known: set[tuple[str, Arg]] = set()

    def send(self, message: OutboundMessage, *, here: bool = True) -> None:
        """Queue a message; ``here``: this thread may be the one that writes. After ``close`` it is dropped."""
        with self._guard:
            if self._closed:
                return
            self._queue.append(message)
            if self._writing:
                return
            self._writing = True
        if here:
            self._work(_ROUNDS)
        elif not self._pool.submit(self._work):
            self._work()

    def finish(self, deadline: float) -> None:
        """Wait until all is written, at most until this moment of ``time.monotonic()``."""
        with self._guard:
            self._deadline = deadline
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._writing, max(deadline - time.monotonic(), 0.0))

    def close(self) -> int:
        """Stop writing; return how many messages were left."""
        with self._guard:
            self._closed = True
            left, self._queue = len(self._queue), []
            self._changed.notify_all()
        return left

    def _work(self, rounds: int = 0) -> None:
        """Write until the queue is empty; a thread of the pool takes over after ``rounds`` round trips (0: never)."""
        done = 0
        while batch := self._take():
            try:
                undelivered = self._deliver(batch)
            except Exception as exc:
                logger.exception("%s: %d messages cannot be written", self._name, len(batch))
                for message in batch:
                    self._report(message, exc if isinstance(exc, RedflareError) else RedflareError(str(exc)))
                continue
            except BaseException:
                # a Ctrl-C in a user's thread, which wrote for others too
                if self._put_back(batch) and not self._pool.submit(self._work):
                    self._stop_writing()
                raise
            done += 1
            if not undelivered:
                self._backoff.reset()
            if undelivered and not self._put_back(undelivered):
                return
            if (undelivered or done == rounds) and rounds and self._pool.submit(self._work):
                return
            if undelivered:
                self._pause(self._backoff.next_delay())

    def _take(self) -> list[OutboundMessage]:
        """Take the next messages from the queue; none: this thread has stopped writing."""
        with self._guard:
            batch, self._queue = self._queue[:_MOST], self._queue[_MOST:]
            if not batch:
                self._stop_writing()
            return batch

    def _stop_writing(self) -> None:
        with self._guard:
            self._writing = False
            self._changed.notify_all()

    def _put_back(self, messages: list[OutboundMessage]) -> bool:
        """Queue messages that could not be written in front; False: there is no time left for them."""
        with self._guard:
            late = self._deadline is not None and time.monotonic() >= self._deadline
            if not self._closed:
                self._queue = messages + self._queue
            if self._closed or late:
                self._stop_writing()
                return False
            return True

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        with self._guard:
            if self._deadline is not None:
                until = min(until, self._deadline)
            while not self._closed and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)

    # -- one round -----------------------------------------------------------------------------------------------------

    def _deliver(self, batch: list[OutboundMessage]) -> list[OutboundMessage]:
        """Write messages; return those that could not be written because their node is unreachable."""
        if not self._server.cluster:
            return self._deliver_together(batch)
        failed = []
        ready = []
        for message in batch:
            if message.before and not self._run_before(message):
                failed.append(message)
            else:
                ready.append(message)
        groups: dict[Address | None, list[OutboundMessage]] = {}
        for message in ready:
            try:
                groups.setdefault(self._server.node(message.route) if message.post else None, []).append(message)
            except Unavailable:
                failed.append(message)
        for node, messages in groups.items():
            posts = [message.post for message in messages if message.post]
            try:
                replies = self._exchange(messages[0].route, posts) if node is not None else []
            except Unavailable as exc:
                self._log_wait(exc)
                failed += messages
                continue
            self._report_all(messages, replies)
            self._deletes += [entry for message in messages for entry in message.deletes]
        self._delete()
        return failed

    def _deliver_together(self, batch: list[OutboundMessage]) -> list[OutboundMessage]:
        commands: list[list[Arg]] = []
        for message in batch:
            commands += message.before
            if message.post:
                commands.append(message.post)
        deletes = self._deletes + [entry for message in batch for entry in message.deletes]
        if deletes:
            commands.append(self._settle(deletes))
        try:
            replies = self._exchange(self._route, commands) if commands else []
        except Unavailable as exc:
            self._log_wait(exc)
            return batch
        self._deletes = []
        posts = []
        at = 0
        for message in batch:
            self._check_before(message, replies[at : at + len(message.before)])
            at += len(message.before)
            if message.post:
                posts.append(replies[at])
                at += 1
        self._report_all(batch, posts)
        return []

    def _run_before(self, message: OutboundMessage) -> bool:
        try:
            self._check_before(message, self._exchange(message.before_route or self._route, message.before))
        except Unavailable as exc:
            self._log_wait(exc)
            return False
        return True

    def _check_before(self, message: OutboundMessage, replies: list[RedisReply]) -> None:
        for command, reply in zip(message.before, replies, strict=True):
            if isinstance(reply, ReplyError):
                logger.error("%s: Redis refused command %.200r, sent with a reply: %s", self._name, command[2:], reply)

    def _delete(self) -> None:
        if not self._deletes:
            return
        try:
            self._exchange(self._route, [self._settle(self._deletes)])
            self._deletes = []
        except Unavailable as exc:
            # if they are read again they are known, and they are deleted with the next round
            self._log_wait(exc)

    def _log_wait(self, error: Unavailable) -> None:
        logger.log(self._backoff.level(error, logging.DEBUG), "%s: writing waits: %s", self._name, error)

    def _exchange(self, route: str, commands: Sequence[list[Arg]]) -> list[RedisReply]:
        """Run commands in one round trip, each script by its digest where the node knows it already.

        Raises:
            Unavailable: the node is away, or refuses one of them for now: all are to be run again.
        """
        try:
            with self._server.borrow(route) as connection:
                sent = (
                    commands if connection.functions else [self._prepared(connection.node, each) for each in commands]
                )
                replies = run_pipeline(connection, sent)
                for reply in replies:
                    if isinstance(reply, ReplyError) and reply.rule.kind is not Kind.FINAL:
                        raise reply.error(connection.node)
                return replies
        except Unavailable:
            # whatever comes back may be another Redis
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

    def _report_all(self, messages: list[OutboundMessage], posts: list[RedisReply]) -> None:
        replies = iter(posts)
        for message in messages:
            try:
                self._report(message, require(next(replies), self._name) if message.post else None)
            except RedflareError as exc:
                self._report(message, exc)

    def _report(self, message: OutboundMessage, result: RedisReply | RedflareError) -> None:
        if message.done is None:
            if isinstance(result, RedflareError):
                logger.error("%s: Redis refused a message to %s: %s", self._name, message.route, result)
            return
        try:
            message.done(result)
        except Exception:
            logger.exception("%s: the callback of a message to %s failed", self._name, message.route)

    def __repr__(self) -> str:
        return f"<Outbox of {self._name}, {len(self._queue)} to write{', closed' if self._closed else ''}>"
