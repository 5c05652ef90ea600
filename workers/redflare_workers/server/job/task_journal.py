"""``TaskJournal``: writes the open tasks of a job into Redis, and stores what they carry so that sites can read it.

A broadcast's data is stored once, when it is first handed out. The record of a task shows operators its state; for a
controller that resumes it also holds all that a successor needs: data, client tasks and results.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

from redflare_broker.errors import Fenced, RedflareError
from redflare_broker.job_state.task_store import STANDING, ClientTaskRecord, JobTaskStore, TaskRecord
from redflare_broker.payload.encoded_payload import EncodedPayload
from redflare_broker.transport.replies import Arg
from redflare_broker.util.thread_pool import ElasticThreadPool

from redflare_workers.apis.shareable import Shareable
from redflare_workers.apis.task import ClientTask, Task
from redflare_workers.communicator.wf_comm_server import WFCommServer
from redflare_workers.protocol.shareable_codec import from_message, to_message
from redflare_workers.server.shared.job_registration import JobRegistration

from .clients import JobClients
from .payloads import Payloads, RetainedResults
from .recovery import Recovery, Retry

logger = logging.getLogger(__name__)

#: What the payload of a predecessor's broadcast is kept by, when this server stores another.
_LEFT: Final = "left"


@dataclass(slots=True, kw_only=True)
class OpenTask:
    """The record of an open task, and whether Redis has it."""

    task: Task
    record: TaskRecord
    #: Payloads that clients may still be reading, with their meta, by client task; "": that of all the others.
    stored: dict[str, tuple[dict[str, Any], EncodedPayload]] = field(default_factory=dict)
    #: It is in Redis, in this generation of the job, or will be before a client sees the task.
    written: bool = False
    #: Redis has confirmed that.
    confirmed: bool = False
    #: The write was sent; later commands on this connection follow it.
    posted: bool = False
    posting: threading.Lock = field(default_factory=threading.Lock)
    #: Of the job's registration, when it was written.
    generation: int = 0
    #: The task has ended: nothing is stored for it any more.
    closed: bool = False
    guard: threading.RLock = field(default_factory=threading.RLock)


@dataclass(slots=True, eq=False)
class TaskJournal:
    """Keeps the records of the open tasks. Thread-safe."""

    #: writes them
    store: JobTaskStore
    #: of the job in Redis; records that were lost are written again before they are next used
    registration: JobRegistration
    #: stores what tasks carry
    payloads: Payloads
    #: records of a predecessor
    recovery: Recovery
    #: knows how tasks were scheduled
    communicator: WFCommServer
    clients: JobClients
    #: for writes that nobody has to wait for
    pool: ElasticThreadPool
    #: Results that a successor would need.
    results: RetainedResults = field(init=False)
    #: This run is over, and the job is another server's: the records in Redis stay as they are.
    left: bool = field(default=False, init=False)
    _orders: Iterator[int] = field(init=False)
    _open: dict[str, OpenTask] = field(default_factory=dict, init=False)
    #: Those that no client had a reason to see yet: its reply would write them.
    _new: dict[str, OpenTask] = field(default_factory=dict, init=False)
    #: The controller was restored, and has not come to the tasks that a predecessor has scheduled since.
    _repeats: bool = field(init=False)

    def __post_init__(self) -> None:
        self.results = RetainedResults(self.store, self.registration, self.payloads)
        self._orders = itertools.count(self.recovery.last_order + 1)
        self._repeats = self.recovery.restored and self.recovery.has_tasks

    # -- tasks begin and end -------------------------------------------------------------------------------------------

    def begin(self, task: Task) -> list[ClientTask]:
        """Begin the record of a task, or take up the one of a predecessor; return the adopted ClientTasks."""
        schedule = self.communicator.schedule_of(task)
        assert schedule is not None, f"{task} is reported as scheduled, but was not"
        self._repeats = False
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
            options={**schedule.options, "absent_after": self.communicator.grace_period},
        )
        entry = OpenTask(task=task, record=record, generation=self.registration.generation)
        self._open[task.msg_root_id] = entry
        # it goes with the reply to the first client, or is written when no client waits for the task
        self._new[task.msg_root_id] = entry
        return []

    def remove(self, task: Task) -> OpenTask | None:
        """Remove a task that has ended; ``close_task`` comes next."""
        return self._open.pop(task.msg_root_id, None)

    def close_task(self, entry: OpenTask) -> None:
        """Write the end of a task, and delete the payloads that were stored for it."""
        self._log_errors(entry.record.name, partial(self._close, entry))

    def checkpoint(self, state: dict[str, Any], history: Callable[[int], list[Any]]) -> None:
        """Store a controller's state, and what is new in its history.

        Results that it contains need not be kept any more.

        Once the job is left to another server this has no effect: its tasks were ended before their time.

        Raises:
            EncodeError: the state cannot be sent; says where and why.
            Fenced, Unavailable, ServerError: it is not stored.
        """
        # between the checkpoint that was restored and these tasks a predecessor has made no other: this is the restored
        # one again, and would drop the results that came after it
        if self._repeats or self.left:
            return
        began = time.time()
        self.abandon()
        self.results.checkpoint(state, history, began)

    # -- client tasks --------------------------------------------------------------------------------------------------

    def protect(self, task: Task, data: Shareable) -> Shareable:
        """Store a broadcast's data, and return it as a payload that nobody can change."""
        entry = self._open.get(task.msg_root_id)
        if entry is None:
            # it has ended meanwhile, and this will not be sent
            return data
        self._renew_if_lost(entry)
        if (kept := entry.record.data) is not None:
            if task.before_task_sent_cb is None:
                return from_message(dict(entry.record.meta), kept)
            # a predecessor's, before the callback made something else of it; its clients may still be reading it
            with entry.guard:
                if "" in entry.stored:
                    entry.stored[_LEFT] = entry.stored.pop("")
        meta, tree = to_message(data)
        payload = self.payloads.store(tree)
        if payload.blob is None:
            # a small one still shares the memory of the controller's arrays
            payload = EncodedPayload(payload.data, tuple(map(bytes, payload.buffers)))
        self._keep(entry, "", meta, payload)
        return from_message(meta, payload)

    def pack(self, client_task: ClientTask, shareable: Shareable) -> tuple[dict[str, Any], EncodedPayload]:
        """Return meta and data of the message that hands a task out.

        Raises:
            KeyError: the task has ended meanwhile.
            EncodeError: its data cannot be sent; says where and why.
            Fenced, JobEnded, Unavailable, ServerError: it cannot be stored.
        """
        entry = self._open[client_task.task.msg_root_id]
        self._renew_if_lost(entry)
        meta, tree = to_message(shareable)
        if isinstance(tree, EncodedPayload):
            return meta, tree
        # what a callback makes may differ each time
        if client_task.task.before_task_sent_cb is None and (kept := entry.stored.get(client_task.id)) is not None:
            return kept
        payload = self.payloads.store(tree)
        self._keep(entry, client_task.id, meta, payload)
        return meta, payload

    def hand_out(self, client_task: ClientTask, send: Callable[[list[list[Arg]]], None]) -> None:
        """Call ``send``, which hands a task out, with the commands that note it; the first of them writes the record.

        Until that one was sent no other is: its note would find no record, and a successor would not find the client.
        """
        entry = self._open.get(client_task.task.msg_root_id)
        if entry is None or entry.posted:
            send(self._sent_commands(client_task, entry))
            return
        with entry.posting:
            try:
                send(self._sent_commands(client_task, entry))
            except BaseException:
                entry.written = False
                raise
            entry.posted = True

    def _sent_commands(self, client_task: ClientTask, entry: OpenTask | None) -> list[list[Arg]]:
        root_id, commands = client_task.task.msg_root_id, list[list[Arg]]()
        # without the guard, which a thread that is writing it may hold: both write the same. A record that is replaced
        # meanwhile makes it unwritten again
        if entry is not None and not entry.written and not entry.closed:
            entry.written = True
            commands = self.store.schedule_commands(entry.record)
            self._new.pop(root_id, None)
        # its result may be in already; only the note of the result notes that
        record = _record(client_task, received=0.0)
        return [*commands, self.store.note_command(root_id, record)]

    def lost(self, client_task: ClientTask, prefix: str) -> None:
        """Forget a payload that a client did not find, so that it is stored again."""
        entry = self._open.get(client_task.task.msg_root_id)
        if entry is None:
            return
        gone = []
        with entry.guard:
            for key in ("", client_task.id):
                kept = entry.stored.get(key)
                # another client may have missed it before, and it has been stored again since
                if kept is not None and (blob := kept[1].blob) is not None and blob.prefix == prefix:
                    gone.append(entry.stored.pop(key)[1])
                    if entry.record.data is kept[1]:
                        entry.record = replace(entry.record, data=None)
            again = "" not in entry.stored
        if gone:
            logger.warning("the payload of task %r is gone from Redis, it is stored again", client_task.task.name)
            self.payloads.release(gone)
        if again:
            self.communicator.protect_again(client_task.task)

    def received(
        self, client_task: ClientTask, rc: str, meta: dict[str, Any], result: EncodedPayload
    ) -> list[list[Arg]]:
        """Note a result that was handled: at once if a successor needs it, else by the commands that are returned.

        Raises:
            Fenced: another server has taken over, and will handle it.
        """
        task, store = client_task.task, self.store
        record = _record(client_task, received=time.time(), rc=rc, meta=meta, result=result)
        if store.resume:
            self._log_errors(task.name, partial(self.results.note, client_task, record))
        if (entry := self._open.get(task.msg_root_id)) is not None:
            with entry.guard:
                # the reply that handed it out has arrived, and the write of the record came before it
                entry.confirmed = entry.written
                stored = entry.stored.pop(client_task.id, None)
            if stored is not None:
                self.payloads.release([stored[1]])
        if self.left:
            raise Fenced(f"{task} is another server's")
        return [] if store.resume else [store.note_command(task.msg_root_id, record)]

    def retains(self, result: EncodedPayload) -> bool:
        """Whether the payload of a result must not be deleted yet."""
        return self.left or result in self.results

    # -- the job -------------------------------------------------------------------------------------------------------

    def write_new(self) -> None:
        """Write the records of tasks that no client has got yet, in other threads: nobody waits for it."""
        while self._new and not self.left:
            with suppress(KeyError):
                _, entry = self._new.popitem()
                self.pool.submit(partial(self._log_errors, entry.record.name, partial(self._write, entry)))

    def write_all(self) -> None:
        """Write all records again after Redis lost the job; payloads are stored again when they are next needed."""
        for entry in list(self._open.values()):
            self.pool.submit(partial(self._log_errors, entry.record.name, partial(self._write, entry)))

    def leave(self) -> None:
        """Leave all records in Redis to the server that takes over."""
        self.left = True

    def abandon(self) -> None:
        """End the tasks of a predecessor that were not taken up."""
        tasks, submissions = self.recovery.give_up()
        for record in tasks:
            logger.warning("task %r %s of a previous run is not taken up, it ends", record.name, record.root_id)
            ended = partial(self.store.finish, record.root_id, "cancelled", time.time())
            self._log_errors(record.name, partial(self.registration.retry_after_loss, ended))
        self.retry(submissions)

    def retry(self, submissions: list[Retry]) -> None:
        """Handle submissions that have waited."""
        for submission in submissions:
            self.pool.submit(submission)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _take_up(self, task: Task, left: TaskRecord) -> list[ClientTask]:
        """Continue a predecessor's record."""
        task.msg_root_id = left.root_id
        # it may have ended already, and is open again now
        record = replace(left, status=STANDING, ended=0.0)
        entry = OpenTask(task=task, record=record, generation=self.registration.generation)
        if left.data is not None:
            entry.stored[""] = dict(left.meta), left.data
        self._open[task.msg_root_id] = entry
        self._write(entry)
        answered = [one for one in left.client_tasks if one.received]
        self.results.retain(answered)
        self.recovery.adopt(left)
        logger.info(
            "task %r %s resumes: %d sites have it, %d of them have answered",
            left.name,
            left.root_id,
            len(left.client_tasks),
            len(answered),
        )
        return [self._client_task(task, one) for one in left.client_tasks]

    def _client_task(self, task: Task, record: ClientTaskRecord) -> ClientTask:
        client_task = ClientTask(self.clients.client_named(record.client), task)
        client_task.id = record.id
        client_task.task_send_count = record.count
        client_task.task_sent_time = record.sent
        client_task.first_sent_time = record.first_sent or record.sent
        if record.received and record.result is None:
            client_task.result_received_time = record.received
        return client_task

    def _keep(self, entry: OpenTask, client_task_id: str, meta: dict[str, Any], payload: EncodedPayload) -> None:
        """Remember a payload that was stored; a successor finds it in the record.

        Raises:
            KeyError: the task has ended meanwhile.
        """
        with entry.guard:
            released: EncodedPayload | None = payload
            if not (closed := entry.closed):
                released = entry.stored.pop(client_task_id, (meta, None))[1]
                if payload.blob is not None:
                    entry.stored[client_task_id] = meta, payload
                if self.store.resume:
                    entry.record = replace(entry.record, meta=meta, data=payload)
                    entry.written = False
                    self._new[entry.record.root_id] = entry
        if released is not None:
            self.payloads.release([released])
        if closed:
            raise KeyError(entry.record.root_id)

    def _write(self, entry: OpenTask) -> None:
        with entry.guard:
            while not entry.closed and not (entry.written and entry.generation == self.registration.generation):
                self._renew_if_lost(entry)
                self.registration.retry_after_loss(lambda: self.store.schedule(entry.record))
                entry.written = entry.confirmed = entry.posted = True

    def _renew_if_lost(self, entry: OpenTask) -> None:
        """Make the record new if Redis lost the job, and with it the record and the payloads."""
        if entry.generation == self.registration.generation:
            return
        with entry.guard:
            if entry.generation != (generation := self.registration.generation) and not entry.closed:
                self._renew(entry)
                entry.generation = generation

    def _renew(self, entry: OpenTask) -> None:
        entry.written = entry.confirmed = entry.posted = False
        clients = tuple(_record(client_task) for client_task in list(entry.task.client_tasks))
        entry.record = replace(entry.record, data=None, client_tasks=clients)
        gone, entry.stored = list(entry.stored.values()), {}
        self.payloads.release(payload for _, payload in gone)
        self.communicator.protect_again(entry.task)

    def _close(self, entry: OpenTask) -> None:
        root_id, status = entry.record.root_id, str(entry.task.completion_status)
        self._new.pop(root_id, None)
        try:
            if entry.generation != self.registration.generation:
                self._write(entry)
            with entry.guard:
                entry.closed = True
            # the reply that writes it may still be on its way
            unwritten = None if entry.confirmed else entry.record
            ended = partial(self.store.finish, root_id, status, time.time(), unwritten=unwritten)
            self.registration.retry_after_loss(ended)
        except Fenced:
            # this server does not know it yet, but another one has the task now
            self.leave()
            raise
        finally:
            with entry.guard:
                entry.closed = True
                stored, entry.stored = list(entry.stored.values()), {}
            if not self.left:
                self.payloads.release(payload for _, payload in stored)

    def _log_errors(self, task: str, step: Callable[[], object]) -> None:
        """Take a step of the task of that name; a failure is worth a warning, but does not end the task."""
        job = self.store.keys.fqcn
        try:
            step()
        except Fenced as error:
            # the cell does not know it yet, but another server has taken over
            self.leave()
            logger.warning("%s: the record of task %r is left to the next server: %s", job, task, error)
        except RedflareError as error:
            logger.warning("%s: cannot write the record of task %r in Redis, not trying again: %s", job, task, error)

    def __repr__(self) -> str:
        return f"<TaskJournal of {len(self._open)} tasks>"


def _record(client_task: ClientTask, received: float | None = None, **result: Any) -> ClientTaskRecord:
    return ClientTaskRecord(
        id=client_task.id,
        client=client_task.client.name,
        sent=client_task.task_sent_time or 0.0,
        first_sent=client_task.first_sent_time or 0.0,
        count=client_task.task_send_count,
        received=(client_task.result_received_time or 0.0) if received is None else received,
        **result,
    )
