"""Tasks as they stand after some sendings and answers, for the tables of the task managers."""

from __future__ import annotations

from dataclasses import dataclass

from redflare_workers.apis import Client, ClientTask, Shareable, Task


@dataclass(frozen=True, slots=True)
class Sent:
    """One sending: to whom, when (None: it is about to be), and when the answer came."""

    name: str
    at: float | None
    answered: float | None = None


def standing(targets: list[str] | None, *sendings: Sent, created: float = 0, scheduled: float = 0) -> Task:
    """A task for these targets, sent so far as ``sendings`` say."""
    task = Task("train", Shareable())
    task.targets = None if targets is None else list(targets)
    task.create_time, task.schedule_time, task.is_standing = created, scheduled, True
    for sending in sendings:
        send(task, sending)
    return task


def send(task: Task, sending: Sent) -> ClientTask:
    """Note in the task that it was sent once more."""
    client_task = ClientTask(Client(sending.name, ""), task)
    client_task.task_sent_time, client_task.result_received_time = sending.at, sending.answered
    client_task.task_send_count = 0 if sending.at is None else 1
    task.client_tasks.append(client_task)
    task.last_client_task_map[sending.name] = client_task
    return client_task


def asking(task: Task, name: str) -> ClientTask:
    """The ClientTask with which a manager is asked: a new one."""
    return ClientTask(Client(name, ""), task)
