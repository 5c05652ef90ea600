"""The server's tasks in Redis: what the communicator reports becomes ledgers, and payloads that sites can read.

A broadcast's data is stored once, when it is first handed out. The ledger of a task shows people where it is; for a
controller that resumes it holds, besides, what a successor needs: data, client tasks and results.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from redflare_broker.errors import Fenced, RedflareError
from redflare_broker.job_state.task_store import STANDING, ClientTaskRecord, JobTaskStore, TaskRecord
from redflare_broker.payload.encoded_payload import EncodedPayload
from redflare_broker.transport.replies import Arg
from redflare_broker.util.thread_pool import ElasticThreadPool
from redflare_broker.wire.message_entry import pack_meta
from redflare_broker.wire.task_entry import BlobRef

from redflare_workers.apis.client import Client
from redflare_workers.apis.shareable import Shareable
from redflare_workers.apis.task import ClientTask, Task
from redflare_workers.communicator.comm_observer import CommObserver
from redflare_workers.communicator.scheduling import Schedule
from redflare_workers.protocol.shareable_codec import from_message, to_message
from redflare_workers.server.shared.job_registration import JobRegistration

from .payloads import Payloads
from .recovery import Recovery, Retry

logger = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class _OpenTask:
    """One standing task, beside what the communicator keeps of it."""

    task: Task
    record: TaskRecord
    #: Payloads that clients may still be reading, with their meta, by client task; "": that of all of them.
    stored: dict[str, tuple[dict[str, Any], EncodedPayload]] = field(default_factory=dict)
    #: It stands in Redis, in this life of the job, or will before a client sees the task.
    written: bool = False
    #: Redis has said so.
    confirmed: bool = False
    #: What writes it is on its way: whatever is sent from now on arrives behind it.
    posted: bool = False
    posting: threading.Lock = field(default_factory=threading.Lock)
    life: int = 0
    #: The task has ended: nothing is stored for it any more.
    closed: bool = False
    guard: threading.RLock = field(default_factory=threading.RLock)


class TaskJournal(CommObserver):
    """Keeps the ledgers of the standing tasks. Thread-safe.

    Args:
        journal: writes them.
        life: of the job in Redis; a ledger that was lost is written again before it is next used.
        payloads: stores what tasks carry.
        recovery: what a predecessor has left.
        pool: for what nobody has to wait for.
        schedule_of: how a task was scheduled.
        protect_again: the data of a broadcast is gone from Redis.
        client_of: the client of a name, for client tasks that a predecessor has handed out.
    """

    def __init__(
        self,
        journal: JobTaskStore,
        life: JobRegistration,
        payloads: Payloads,
        recovery: Recovery,
        pool: ElasticThreadPool,
        schedule_of: Callable[[Task], Schedule | None],
        protect_again: Callable[[Task], None],
        client_of: Callable[[str], Client],
    ) -> None:
        self.recovery = recovery
        self._journal = journal
        self._life = life
        self._payloads = payloads
        self._pool = pool
        self._schedule_of = schedule_of
        self._protect_again = protect_again
        self._client_of = client_of
        self._orders = itertools.count(recovery.last_order + 1)
        self._guard = threading.Lock()
        self._ledgers: dict[str, _OpenTask] = {}
        #: Those that no client had a reason to see yet: its reply would write them.
        self._new: dict[str, _OpenTask] = {}
        #: Payloads of results that a successor would need; a checkpoint frees them.
        self._retained: dict[str, BlobRef] = {}
        #: Tasks that were taken up: as soon as they stand, the controller gets the results that had been accepted.
        self._taken_up: list[TaskRecord] = []
        #: How many tasks have still to be brought up to date; nothing is handed out meanwhile.
        self._behind = 0
        #: The next checkpoint tells what was just restored.
        self._just_restored = recovery.restored
        #: One result is noted, or one checkpoint kept, at a time: either contains the other or it does not.
        self._order = threading.Lock()
        #: When the last checkpoint was begun, and results that were being handled by whoever asked for it.
        self._kept = 0.0
        self._contained: set[str] = set()
        self._handling = threading.local()
        #: Another server goes on: what stands is its.
        self._left = False
        #: The run is over: no successor will need a result.
        self._closed = False
        #: For the job: clients that may ask (said: whether one waits), tasks that have ended, results to be given once
        #: more.
        self.on_may_ask: Callable[[Set[str] | None], bool] = lambda names: False
        self.on_ended: Callable[[Task, list[ClientTask]], None] = lambda task, unanswered: None
        self.on_replay: Callable[[TaskRecord, ClientTaskRecord], None] = lambda task, client_task: None

    # -- what the communicator reports ---------------------------------------------------------------------------------

    def scheduled(self, task: Task) -> list[ClientTask]:
        """Begin its ledger, or take up the one that a predecessor has left."""
        schedule = self._schedule_of(task)
        assert schedule is not None, f"{task} is reported as scheduled, but was not"
        self._just_restored = False
        left = self.recovery.take_up(task.name, str(schedule.kind), schedule.targets)
        if left is not None:
            return self._take_up(task, left)
        record = TaskRecord(
            root_id=task.msg_root_id,
            name=task.name,
            kind=str(schedule.kind),
            order=next(self._orders),
            scheduled=task.schedule_time or 0.0,
            timeout=task.timeout,
            targets=schedule.targets,
            options=schedule.options,
        )
        ledger = self._ledgers[task.msg_root_id] = _OpenTask(task=task, record=record, life=self._life.number)
        # it goes with the reply to the first client, or is written when nobody waits for the task
        self._new[task.msg_root_id] = ledger
        return []

    def protect(self, task: Task, data: Shareable) -> Shareable:
        """Store it: what stands in Redis cannot be changed by anybody."""
        ledger = self._ledgers.get(task.msg_root_id)
        if ledger is None:
            # it has ended meanwhile, and this will not be sent
            return data
        self._look_at_life(ledger)
        if (kept := ledger.record.data) is not None:
            return from_message(dict(ledger.record.meta), kept)
        meta, tree = to_message(data)
        sealed = self._payloads.store(tree)
        if sealed.blob is None:
            # a small one still shows the memory of the controller's arrays
            sealed = EncodedPayload(sealed.data, tuple(map(bytes, sealed.buffers)))
        self._keep(ledger, "", meta, sealed)
        return from_message(meta, sealed)

    def may_ask(self, names: Set[str] | None) -> None:
        """Hand it on; a task that has just been taken up gets its accepted results first."""
        with self._guard:
            taken_up, self._taken_up = self._taken_up, []
        if taken_up:
            self._pool.submit(partial(self._catch_up, taken_up))
        elif not self.on_may_ask(names):
            self.write_new()

    def ended(self, task: Task, unanswered: list[ClientTask]) -> None:
        """Tell those who still work on it, close its ledger, and delete what was stored for it."""
        ledger = self._ledgers.pop(task.msg_root_id, None)
        if self._left:
            return
        self.on_ended(task, unanswered)
        if ledger is not None:
            self._quietly(partial(self._close, ledger))

    def checkpoint(self, state: dict[str, Any]) -> None:
        """Keep a controller's state; what it contains need not be kept any more.

        Raises:
            EncodeError: the state cannot be sent; says where and why.
            Fenced, Unavailable, ServerError: it is not kept.
        """
        # the one right after a restart tells what was just restored, and what stands behind it is still to be taken up
        if self._just_restored:
            return
        began = time.time()
        self.abandon()
        with self._order:
            freed = self._life.surely(lambda: self._journal.checkpoint({}, self._payloads.store(state)))
            self._kept = began
            self._contained.update(getattr(self._handling, "ids", ()))
        self._payloads.discard(freed)
        with self._guard:
            for blob in freed:
                self._retained.pop(blob.prefix, None)

    # -- what the desk asks --------------------------------------------------------------------------------------------

    @property
    def restoring(self) -> bool:
        """Results of a predecessor are on their way to the controller: hand nothing out yet."""
        return self._behind > 0

    def pack(self, client_task: ClientTask, shareable: Shareable) -> tuple[dict[str, Any], EncodedPayload]:
        """Meta and data of the message that hands a task out.

        Raises:
            KeyError: the task has ended meanwhile.
            EncodeError: its data cannot be sent; says where and why.
            Fenced, JobEnded, Unavailable, ServerError: they cannot be stored.
        """
        ledger = self._ledgers[client_task.task.msg_root_id]
        self._look_at_life(ledger)
        meta, tree = to_message(shareable)
        pack_meta(meta)
        if isinstance(tree, EncodedPayload):
            sealed = tree
        elif (kept := ledger.stored.get(client_task.id)) is not None:
            meta, sealed = kept
        else:
            sealed = self._payloads.store(tree)
            self._keep(ledger, client_task.id, meta, sealed)
        return meta, sealed

    def hand_out(self, client_task: ClientTask, send: Callable[[list[list[Arg]]], None]) -> None:
        """Call ``send``, which hands a task out, with the commands that note it; the first of them writes the ledger.

        Until that one is on its way no other is sent: its note would find no ledger, and a successor not the client.
        """
        ledger = self._ledgers.get(client_task.task.msg_root_id)
        if ledger is None or ledger.posted:
            send(self._sent_commands(client_task, ledger))
            return
        with ledger.posting:
            try:
                send(self._sent_commands(client_task, ledger))
            except BaseException:
                ledger.written = False
                raise
            ledger.posted = True

    def _sent_commands(self, client_task: ClientTask, ledger: _OpenTask | None) -> list[list[Arg]]:
        root_id, commands = client_task.task.msg_root_id, list[list[Arg]]()
        # without the guard, which a thread that writes it just now has: both write the same. A record that is replaced
        # meanwhile makes it unwritten again
        if ledger is not None and not ledger.written and not ledger.closed:
            ledger.written = True
            commands = self._journal.schedule_commands(ledger.record)
            self._new.pop(root_id, None)
        # its result may be in already; only what notes that notes what it was
        record = replace(_record(client_task), received=0.0)
        return [*commands, self._journal.note_command(root_id, record)]

    def lost(self, client_task: ClientTask, prefix: str) -> None:
        """A client did not find a payload of this prefix: forget it, so that what the task carries is stored anew."""
        ledger = self._ledgers.get(client_task.task.msg_root_id)
        if ledger is None:
            return
        gone = []
        with ledger.guard:
            for key in ("", client_task.id):
                kept = ledger.stored.get(key)
                # another client may have told before, and it has been stored anew since
                if kept is not None and (blob := kept[1].blob) is not None and blob.prefix == prefix:
                    gone.append(ledger.stored.pop(key)[1])
                    ledger.record = replace(ledger.record, data=None)
            anew = "" not in ledger.stored
        if gone:
            logger.warning("what task %r carries is gone from Redis, it is stored again", client_task.task.name)
            self._payloads.release(gone)
        if anew:
            self._protect_again(client_task.task)

    @contextmanager
    def handling(self, client_task_id: str) -> Iterator[None]:
        """A result is given to the controller: a state that it keeps meanwhile contains it."""
        ids = self._handling.ids = [*getattr(self._handling, "ids", ()), client_task_id]
        try:
            yield
        finally:
            self._handling.ids = ids[:-1]

    def received(
        self, client_task: ClientTask, rc: str, meta: dict[str, Any], result: EncodedPayload
    ) -> list[list[Arg]]:
        """Note a result that was handled; for a successor at once, else by the commands that are returned.

        Raises:
            Fenced: another server goes on, and will handle it.
        """
        task, journal = client_task.task, self._journal
        record = replace(_record(client_task), received=time.time(), rc=rc, meta=meta, result=result)
        if journal.resume:
            self._quietly(partial(self._note, client_task, record))
        if (ledger := self._ledgers.get(task.msg_root_id)) is not None:
            with ledger.guard:
                # the reply that handed it out has arrived, and what wrote the ledger came before
                ledger.confirmed = ledger.written
                stored = ledger.stored.pop(client_task.id, None)
            if stored is not None:
                self._payloads.release([stored[1]])
        if self._left:
            raise Fenced(f"another server goes on with {task}")
        return [] if journal.resume else [journal.note_command(task.msg_root_id, record)]

    def _note(self, client_task: ClientTask, record: ClientTaskRecord) -> None:
        """Note a result for a successor; its payload is kept until a checkpoint contains it."""
        with self._order:
            handled = client_task.result_received_time
            if record.id in self._contained or (handled is not None and handled < self._kept):
                # one that was kept since it was handled does
                self._contained.discard(record.id)
                record = replace(record, meta={}, result=None)
            elif (blob := record.result.blob if record.result else None) is not None:
                with self._guard:
                    if not self._closed:
                        self._retained[blob.prefix] = blob
            root_id = client_task.task.msg_root_id
            self._life.surely(lambda: self._journal.note(root_id, [record]))

    def retains(self, result: EncodedPayload) -> bool:
        """Whether the payload of a result must not be deleted yet."""
        with self._guard:
            return self._left or result.blob is None or result.blob.prefix in self._retained

    def write_new(self) -> None:
        """Write the ledgers of tasks that nobody has got yet; in another thread, nobody waits for it."""
        while self._new:
            with suppress(KeyError):
                _, ledger = self._new.popitem()
                self._pool.submit(partial(self._quietly, partial(self._write, ledger)))

    def write_all(self) -> None:
        """Redis has lost the job: write what stands anew; what it carries is stored anew when it is next asked for."""
        for ledger in list(self._ledgers.values()):
            self._pool.submit(partial(self._quietly, partial(self._write, ledger)))

    def leave(self) -> None:
        """Another server goes on with the job: what stands in Redis is its from now on."""
        self._left = True

    def close(self) -> None:
        """The run is over, nobody will go on with it: delete the results that were kept for a successor."""
        with self._guard:
            self._closed = True
            retained, self._retained = list(self._retained.values()), {}
        self._payloads.release(retained)

    def abandon(self) -> None:
        """What a predecessor has left, and nobody took up, is over."""
        tasks, submissions = self.recovery.give_up()
        for record in tasks:
            logger.warning("task %r %s of a previous run is not taken up, it ends", record.name, record.root_id)
            ended = partial(self._journal.finish, record.root_id, "cancelled", time.time())
            self._quietly(partial(self._life.surely, ended))
        self._try_again(submissions)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _take_up(self, task: Task, left: TaskRecord) -> list[ClientTask]:
        """Stand where a predecessor's task stood."""
        task.msg_root_id = left.root_id
        # it may have ended already, and now stands again
        record = replace(left, status=STANDING, ended=0.0)
        ledger = _OpenTask(task=task, record=record, life=self._life.number)
        if left.data is not None:
            ledger.stored[""] = dict(left.meta), left.data
        self._ledgers[task.msg_root_id] = ledger
        self._write(ledger)
        answered = [one for one in left.client_tasks if one.received]
        with self._guard:
            self._taken_up.append(left)
            self._behind += 1
            for one in answered:
                if one.result is not None and (blob := one.result.blob) is not None:
                    self._retained[blob.prefix] = blob
        logger.info(
            "task %r %s goes on: %d sites have it, %d of them have answered",
            left.name,
            left.root_id,
            len(left.client_tasks),
            len(answered),
        )
        return [self._client_task(task, one) for one in left.client_tasks]

    def _client_task(self, task: Task, record: ClientTaskRecord) -> ClientTask:
        client_task = ClientTask(self._client_of(record.client), task)
        client_task.id = record.id
        client_task.task_send_count = record.count
        client_task.task_sent_time = record.sent
        if record.received and record.result is None:
            client_task.result_received_time = record.received
        return client_task

    def _catch_up(self, tasks: list[TaskRecord]) -> None:
        """Give the controller what was accepted before, in order; what came too early is then tried again."""
        try:
            for task in tasks:
                for client_task in sorted(task.client_tasks, key=lambda one: one.received):
                    # one that was received, and has no result, is part of the state that was restored
                    if client_task.received and client_task.result is not None:
                        self.on_replay(task, client_task)
        finally:
            with self._guard:
                self._behind -= len(tasks)
            for task in tasks:
                self._try_again(self.recovery.arrived(task.client_tasks))
            self.on_may_ask(None)

    def _try_again(self, submissions: list[Retry]) -> None:
        for submission in submissions:
            self._pool.submit(submission)

    def _keep(self, ledger: _OpenTask, client_task_id: str, meta: dict[str, Any], sealed: EncodedPayload) -> None:
        """Remember what was stored; a successor would find it in the ledger.

        Raises:
            KeyError: the task has ended meanwhile.
        """
        with ledger.guard:
            if not ledger.closed:
                if sealed.blob is not None:
                    ledger.stored[client_task_id] = meta, sealed
                if self._journal.resume:
                    ledger.record = replace(ledger.record, meta=meta, data=sealed)
                    ledger.written = False
                    self._new[ledger.record.root_id] = ledger
                return
        self._payloads.release([sealed])
        raise KeyError(ledger.record.root_id)

    def _write(self, ledger: _OpenTask) -> None:
        with ledger.guard:
            while not ledger.closed and not (ledger.written and ledger.life == self._life.number):
                self._look_at_life(ledger)
                self._life.surely(lambda: self._journal.schedule(ledger.record))
                ledger.written = ledger.confirmed = ledger.posted = True

    def _look_at_life(self, ledger: _OpenTask) -> None:
        """If Redis had lost the job, and what its tasks carry as well, all of it is written again."""
        if ledger.life == self._life.number:
            return
        with ledger.guard:
            if ledger.life != (life := self._life.number) and not ledger.closed:
                self._begin_anew(ledger)
                ledger.life = life

    def _begin_anew(self, ledger: _OpenTask) -> None:
        ledger.written = ledger.confirmed = ledger.posted = False
        clients = tuple(_record(client_task) for client_task in list(ledger.task.client_tasks))
        ledger.record = replace(ledger.record, data=None, client_tasks=clients)
        gone, ledger.stored = list(ledger.stored.values()), {}
        self._payloads.release(sealed for _, sealed in gone)
        self._protect_again(ledger.task)

    def _close(self, ledger: _OpenTask) -> None:
        root_id, status = ledger.record.root_id, str(ledger.task.completion_status)
        self._new.pop(root_id, None)
        try:
            if ledger.life != self._life.number:
                self._write(ledger)
            with ledger.guard:
                ledger.closed = True
            # the reply that writes it may still be on its way
            unwritten = None if ledger.confirmed else ledger.record
            self._life.surely(partial(self._journal.finish, root_id, status, time.time(), unwritten=unwritten))
        except Fenced:
            # this server does not know it yet, but another one goes on with the task
            self.leave()
            raise
        finally:
            with ledger.guard:
                ledger.closed = True
                stored, ledger.stored = list(ledger.stored.values()), {}
            if not self._left:
                self._payloads.release(sealed for _, sealed in stored)

    def _quietly(self, step: Callable[[], object]) -> None:
        """What people read of a task is worth a warning, not the task."""
        try:
            step()
        except Fenced as error:
            # the cell does not know it yet, but another server goes on
            self.leave()
            logger.warning("a ledger is left to the next server: %s", error)
        except RedflareError as error:
            logger.warning("a ledger is behind: %s", error)

    def __repr__(self) -> str:
        return f"<Ledgers of {len(self._ledgers)} tasks>"


def _record(client_task: ClientTask) -> ClientTaskRecord:
    return ClientTaskRecord(
        id=client_task.id,
        client=client_task.client.name,
        sent=client_task.task_sent_time or 0.0,
        count=client_task.task_send_count,
        received=client_task.result_received_time or 0.0,
    )
