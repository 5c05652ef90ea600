"""Tasks after some sendings and answers, for tests of the task managers."""

from __future__ import annotations

from dataclasses import dataclass

from redflare_workers.apis import Client, ClientTask, Shareable, Task


@dataclass(frozen=True, slots=True)
class Sent:
    """One sending: the client, its time (None: it is not sent yet), and the time of the answer."""

    name: str
    at: float | None
    answered: float | None = None


def standing_task(targets: list[str] | None, *sendings: Sent, created: float = 0, scheduled: float = 0) -> Task:
    """Return a standing task for these targets, after ``sendings``."""
    task = Task("train", Shareable())
    task.targets = None if targets is None else list(targets)
    task.create_time, task.schedule_time, task.is_standing = created, scheduled, True
    for sending in sendings:
        send(task, sending)
    return task


def send(task: Task, sending: Sent) -> ClientTask:
    """Add a sending to a task."""
    client_task = ClientTask(Client(sending.name, ""), task)
    client_task.task_sent_time, client_task.result_received_time = sending.at, sending.answered
    client_task.task_send_count = 0 if sending.at is None else 1
    task.client_tasks.append(client_task)
    task.last_client_task_map[sending.name] = client_task
    return client_task


def asking(task: Task, name: str) -> ClientTask:
    """Return a new ClientTask, as it is passed to a manager."""
    return ClientTask(Client(name, ""), task)
