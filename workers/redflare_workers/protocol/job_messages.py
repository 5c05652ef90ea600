"""Messages between the job process of the server and those of the sites: a dataclass for each, and return codes.

All travel on the channel ``job``. A request of a site begins with its ``Credentials``; the data of a task or a result
is the data of the cell's message, and ``message`` the rest of its Shareable (see ``shareable_codec``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from .message import Fields, Message

#: rc: the job has ended; see ``Refusal``.
RC_JOB_ENDED: Final = "JOB_ENDED"
#: rc: a newer process of this site has taken over.
RC_FENCED: Final = "FENCED"
#: rc: this site is not a member of the job, or Redis has lost it: join, and ask again.
RC_NOT_JOINED: Final = "NOT_JOINED"
#: rc: the same site has asked again, and this request will not be answered.
RC_SUPERSEDED: Final = "SUPERSEDED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials(Fields):
    """How the server knows the process of a site: its name, and instance and epoch of its membership."""

    client: str
    instance: str
    epoch: int

    @classmethod
    def from_meta(cls, meta: Mapping[str, Any]) -> Credentials:
        """Read them from the meta of a request; values of a wrong type become those of no member."""
        client, instance, epoch = meta.get("client"), meta.get("instance"), meta.get("epoch")
        return cls(
            client=client if isinstance(client, str) else "",
            instance=instance if isinstance(instance, str) else "",
            epoch=epoch if isinstance(epoch, int) else -1,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GetTask(Message, channel="job", topic="get_task"):
    """Request of a site for its next task; answered with ``TaskReply`` as soon as there is one."""

    credentials: Credentials
    #: Id of a client task whose payload was not found; "": none is missing.
    lost: str = ""
    #: Prefix of that payload.
    payload: str = ""

    def to_meta(self) -> dict[str, Any]:
        """Return the meta of the request."""
        meta = self.credentials.to_meta()
        if self.lost:
            meta |= {"lost": self.lost, "payload": self.payload}
        return meta

    @classmethod
    def from_meta(cls, meta: Mapping[str, Any]) -> GetTask:
        """Read the meta of a request; a ``lost`` of a wrong type counts as none."""
        lost = meta.get("lost", "")
        return cls(
            credentials=Credentials.from_meta(meta),
            lost=lost if isinstance(lost, str) else "",
            payload=str(meta.get("payload", "")),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskReply:
    """Reply to ``GetTask``: a task for the site; its data is the data of the reply."""

    task_name: str
    #: Id of the ClientTask.
    task_id: str
    message: object
    #: Public props of the server's context.
    props: object = None

    def to_meta(self) -> dict[str, Any]:
        """Return the meta of the reply."""
        meta = {"task_name": self.task_name, "task_id": self.task_id, "message": self.message}
        if self.props:
            meta["props"] = self.props
        return meta

    @classmethod
    def from_meta(cls, meta: Mapping[str, Any]) -> TaskReply:
        """Read the meta of a reply.

        Raises:
            TypeError: it names no task.
        """
        return cls(**_task_fields(meta))


@dataclass(frozen=True, slots=True, kw_only=True)
class Submit(Message, channel="job", topic="submit"):
    """Request of a site: the result of a ClientTask, whose data is the data of the request; answered ``SubmitReply``.

    The server deletes the chunks of the result once it has answered.
    """

    credentials: Credentials
    task_name: str
    task_id: str
    message: object
    #: Public props of the site's context.
    props: object = None

    def to_meta(self) -> dict[str, Any]:
        """Return the meta of the request."""
        meta = self.credentials.to_meta()
        meta |= {"task_name": self.task_name, "task_id": self.task_id, "message": self.message}
        if self.props:
            meta["props"] = self.props
        return meta

    @classmethod
    def from_meta(cls, meta: Mapping[str, Any]) -> Submit:
        """Read the meta of a request.

        Raises:
            TypeError: it names no task.
        """
        return cls(credentials=Credentials.from_meta(meta), **_task_fields(meta))


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitReply(Fields):
    """Reply to ``Submit``: the name of a ``SubmissionCheck``."""

    verdict: str

    @classmethod
    def from_meta(cls, meta: Mapping[str, Any]) -> SubmitReply:
        """Read the meta of a reply."""
        return cls(verdict=str(meta.get("verdict", "")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal(Fields):
    """Reply to a request that is not done, beside the return code that tells why."""

    reason: str

    @classmethod
    def from_meta(cls, meta: Mapping[str, Any]) -> Refusal:
        """Read the meta of a reply."""
        return cls(reason=str(meta.get("reason") or ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class TasksEndEvent(Message, channel="job", topic="task_ended"):
    """Event of the server: these clients may stop working on these ClientTasks."""

    clients: list[str]
    task_ids: list[str]

    @classmethod
    def from_meta(cls, meta: Mapping[str, Any]) -> TasksEndEvent:
        """Read the meta of an event; lists that are missing are empty."""
        return cls(clients=_names(meta, "clients"), task_ids=_names(meta, "task_ids"))


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEndEvent(Message, channel="job", topic="job_ended"):
    """Event of the server to clients that do not wait for a task: the job has ended."""

    clients: list[str]
    #: As ``job_outcome.ended_with`` reads it.
    reason: str
    #: Of their processes; others are of another job of this id, and find in their inboxes what was sent to these.
    #: Empty: any.
    instances: list[str] = field(default_factory=list)

    @classmethod
    def from_meta(cls, meta: Mapping[str, Any]) -> JobEndEvent:
        """Read the meta of an event; lists that are missing are empty."""
        clients, instances = _names(meta, "clients"), _names(meta, "instances")
        return cls(clients=clients, reason=Refusal.from_meta(meta).reason, instances=instances)

    def is_for(self, instance: str) -> bool:
        """Whether the job of a process has ended."""
        return not self.instances or instance in self.instances


#: Events of the server to its sites.
ServerEvent = TasksEndEvent | JobEndEvent


def _task_fields(meta: Mapping[str, Any]) -> dict[str, Any]:
    name, task_id = meta.get("task_name"), meta.get("task_id")
    if not isinstance(name, str) or not isinstance(task_id, str):
        raise TypeError(f"task_name and task_id must be str, but are {name!r:.200} and {task_id!r:.200}")
    return {"task_name": name, "task_id": task_id, "message": meta.get("message"), "props": meta.get("props")}


def _names(meta: Mapping[str, Any], key: str) -> list[str]:
    names = meta.get(key)
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
