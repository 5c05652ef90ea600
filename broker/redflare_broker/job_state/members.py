"""The members of a job: which clients take part, which of them are alive, and whether the job goes on.

A client job *joins* under its site's name, *beats* while it lives and *leaves* in the end; the newest instance of a
name wins, as on a link. The server *begins* the job, *lists the members* with each of its beats, and *ends* the job.
Clients may join before the server has begun. Ages are measured by Redis's clock.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from redflare_broker.config.retention import RetentionPolicy
from redflare_broker.errors import DecodeError, Fenced, JobEnded, JobLost
from redflare_broker.keys import JobKeys
from redflare_broker.scripts.job_scripts import (
    AWAIT,
    BEAT,
    BEGIN,
    END,
    FORGET,
    JOIN,
    LEAVE,
    LIST_MEMBERS,
    RESUMED,
    job_values,
)
from redflare_broker.scripts.lease import Lease
from redflare_broker.scripts.script import ENDED, FENCED, LOST, OK, ScriptReply, parse_reply
from redflare_broker.transport.connection import Connection
from redflare_broker.transport.replies import Arg, RedisReply
from redflare_broker.util.fault_log import FaultLog

from .awaited_sites import AwaitedSites

logger = logging.getLogger(__name__)

_NO_HEARTBEAT: Final = -2


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStart:
    """The reply to ``Members.begin``."""

    #: A previous run's state goes on; otherwise the job is new, or was begun anew.
    resumed: bool
    #: The run before this one; "" when Redis knows of none.
    previous: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberBeat:
    """The reply to a client's beat."""

    #: OK; FENCED: a newer instance of this client is there; LOST: join again; ENDED: the job is over.
    status: str
    #: The server's run; "" before its first start.
    run: str = ""
    #: Seconds since the server's last beat by Redis's clock; None when it has no heartbeat.
    server_age: float | None = None
    #: Instance of the server's cell, from its heartbeat.
    server_instance: str = ""
    #: Why the job has ended.
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One client of a job."""

    name: str
    instance: str
    epoch: int
    #: FQCN of its cell.
    cell: str
    host: str
    pid: int
    #: When it joined, in ms by Redis's clock.
    joined: int
    #: When it left, in ms by Redis's clock; 0 while it has not.
    left: int
    props: Mapping[str, Any] = field(default_factory=dict)
    #: Seconds between two of its heartbeats, and how long each lives, in ms.
    interval: float = 5.0
    ttl_ms: int = 60_000
    #: Remaining life of its heartbeat in ms; -2: it has none, the client is silent.
    heartbeat_ms: int = _NO_HEARTBEAT

    @property
    def alive(self) -> bool:
        """Whether it has not left and has a heartbeat."""
        return not self.left and self.heartbeat_ms != _NO_HEARTBEAT

    @property
    def missed_beats(self) -> float:
        """Age of its last heartbeat, in intervals; one that is due just now is 1."""
        return (self.ttl_ms - self.heartbeat_ms) / 1000 / self.interval


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberList:
    """The members of a job by name, or why the server may not read them."""

    #: OK; FENCED: a newer server is there; LOST: begin again and write the tasks anew; ENDED: the job is over.
    status: str
    members: tuple[Member, ...] = ()
    #: Why the job has ended.
    reason: str = ""
    #: Moment of ``time.monotonic()`` at which it was asked for.
    asked: float = 0.0


class Members:
    """The steps of one job's members; holds no connection and no thread.

    Args:
        keys: of the job.
        policy: how long its keys live.
        may_keep: a client may let the list of clients live as long as its record; False: only the server may.
    """

    def __init__(self, keys: JobKeys, policy: RetentionPolicy, *, may_keep: bool = True) -> None:
        self.keys = keys
        #: Records of clients that are none.
        self.faults = FaultLog(logger, keys.fqcn)
        self._values = job_values(keys, policy, may_keep=may_keep)

    def forget(self, connection: Connection) -> None:
        """Forget what another job of this id has left, before this one begins."""
        FORGET.run(connection, self._values)

    # -- the client's side ---------------------------------------------------------------------------------------------

    def join(
        self,
        connection: Connection,
        lease: Lease,
        cell: str,
        props: Mapping[str, Any] | None = None,
        *,
        interval: float = 5.0,
        ttl_ms: int = 60_000,
        beating: bool = False,
    ) -> ScriptReply:
        """Join the job; a lease that has an epoch keeps it, and joins again after Redis lost the job.

        Args:
            cell: FQCN of the client's cell.
            props: public properties of the client.
            interval: seconds between two of its heartbeats.
            ttl_ms: how long each of them lives.
            beating: set the first heartbeat in the same step; without it, a server that lists the members now finds it
                silent.

        Returns:
            OK and the epoch; FENCED and the epoch of the newer instance; ENDED and the reason.
        """
        about = {"cell": cell, "props": dict(props or {}), "interval": interval, "ttl_ms": ttl_ms}

        def join(lease: Lease) -> ScriptReply:
            # the script puts joined and left before the fields of the record
            record = orjson.dumps({**lease.identity, **about})
            beat = lease.heartbeat(interval, ttl_ms) if beating else b""
            keys = self._keys_of(lease) if beating else {"client": self.keys.client(lease.name)}
            values: dict[str, Arg] = {"record": record, "beat": beat, "beat_ttl_ms": ttl_ms, **keys}
            return JOIN.run(connection, self._values, **lease.args, **values)

        return lease.claim(join)

    def beat_command(self, lease: Lease, *, interval: float, ttl_ms: int) -> list[Arg]:
        """Beat; a command for the heartbeat thread, whose reply ``read_beat`` reads.

        Args:
            interval: seconds between two beats, part of the heartbeat.
            ttl_ms: how long the heartbeat lives.
        """
        beat = lease.heartbeat(interval, ttl_ms)
        return BEAT.command(self._values, **self._keys_of(lease), **lease.args, beat=beat, beat_ttl_ms=ttl_ms)

    @staticmethod
    def read_beat(reply: RedisReply) -> MemberBeat:
        """Read the reply to a heartbeat.

        Raises:
            ServerError: Redis refused the command.
        """
        parsed = parse_reply("job/beat", reply)
        if parsed.status == ENDED:
            return MemberBeat(status=ENDED, reason=parsed.text())
        if parsed.status != OK:
            return MemberBeat(status=parsed.status)
        age, instance = _server_of(parsed.text(1), parsed.number(2))
        return MemberBeat(status=OK, run=parsed.text(), server_age=age, server_instance=instance)

    def leave(self, connection: Connection, lease: Lease) -> ScriptReply:
        """Leave for good: the heartbeat goes, and the record notes when.

        Returns:
            OK, also when it has left before; FENCED; LOST.
        """
        return LEAVE.run(connection, self._values, **self._keys_of(lease), **lease.args)

    def _keys_of(self, lease: Lease) -> dict[str, str]:
        """Return the keys of a job that are a client's own."""
        return {"client": self.keys.client(lease.name), "heartbeat": self.keys.heartbeat(lease.name)}

    # -- the server's side ---------------------------------------------------------------------------------------------

    def begin(self, connection: Connection, lease: Lease, *, resume: bool = True) -> JobStart:
        """Begin this run, or go on with the state of the run before it.

        Args:
            resume: False drops the state and the tasks of a previous run, as is done anyway when that has ended.

        Raises:
            Fenced: a newer cell of this name is there.
            JobLost: Redis does not know the cell (yet).
            JobEnded: this very run has ended.
        """
        reply = check(BEGIN.run(connection, self._values, **lease.args, resume=int(resume)), self.keys)
        return JobStart(resumed=reply.text() == RESUMED, previous=reply.text(1))

    def list_members_command(self, lease: Lease) -> list[Arg]:
        """Read the member list, and let all keys of the job live on; ``read_members`` reads the reply."""
        return LIST_MEMBERS.command(self._values, **lease.args)

    def read_members(self, reply: RedisReply) -> MemberList:
        """Read the reply to ``list_members_command``; a record that is none is left out, and noted in the log.

        Raises:
            ServerError: Redis refused the command.
        """
        return self._member_list(parse_reply("job/list_members", reply))

    def list_members(self, connection: Connection, lease: Lease) -> MemberList:
        """Run ``list_members_command`` now."""
        return self._member_list(LIST_MEMBERS.run(connection, self._values, **lease.args))

    def _member_list(self, reply: ScriptReply) -> MemberList:
        self.faults.flush()
        if reply.status != OK:
            return MemberList(status=reply.status, reason=reply.text())
        rest, members = reply.rest, list[Member]()
        for index in range(0, len(rest), 3):
            try:
                members.append(read_member(*rest[index : index + 3]))
            except DecodeError as error:
                name = rest[index]
                sender = name.decode("utf-8", "replace")[:200] if isinstance(name, bytes) else "?"
                self.faults.note(sender, "record that cannot be read", f"a client is left out: {error}")
        return MemberList(status=OK, members=tuple(sorted(members, key=lambda member: member.name)))

    def note_awaited(self, connection: Connection, lease: Lease, awaited: AwaitedSites | None) -> None:
        """Note for which sites the controller waits before it begins; None: it waits no longer.

        Raises:
            Fenced, JobLost, JobEnded: it is not this server's job (any more).
        """
        text = "" if awaited is None else awaited.to_json()
        check(AWAIT.run(connection, self._values, **lease.args, awaited=text), self.keys)

    def end(self, connection: Connection, lease: Lease, status: str = ENDED, reason: str = "") -> None:
        """End the job: clients hear it with their next beat, and all its keys expire after a while.

        The first end counts.

        Args:
            status: anything but RUNNING, for people.

        Raises:
            Fenced: a newer server is there.
            JobLost: Redis has lost the job.
        """
        check(END.run(connection, self._values, **lease.args, status=status, reason=reason), self.keys)


def check(reply: ScriptReply, keys: JobKeys) -> ScriptReply:
    """Return the reply to a server's step when it took effect.

    Raises:
        Fenced: a newer server is there.
        JobLost: Redis has lost the job.
        JobEnded: the job is over.
    """
    if reply.status == FENCED:
        raise Fenced(f"a newer server has taken over {keys.fqcn}; this one must stop")
    if reply.status == LOST:
        raise JobLost(f"Redis does not know this run of {keys.fqcn}: begin it again and write its tasks anew")
    if reply.status == ENDED:
        raise JobEnded(f"{keys.fqcn} has ended{': ' + reply.text() if reply.text() else ''}")
    return reply


def _server_of(beat: str, left_ms: int) -> tuple[float | None, str]:
    """Age in seconds and instance, from the heartbeat of the server's cell."""
    try:
        decoded = orjson.loads(beat)
        return max(0.0, (int(decoded["ttl_ms"]) - left_ms) / 1000), str(decoded.get("instance", ""))
    except (ValueError, KeyError, TypeError):
        # it has none, or it is not one of ours
        return None, ""


def read_member(name: RedisReply, record: RedisReply, left_ms: RedisReply) -> Member:
    """Read one client from its name, its record and the PTTL of its heartbeat.

    Raises:
        DecodeError: it is not a record of ours.
    """
    try:
        if not isinstance(name, bytes) or not isinstance(record, bytes) or not isinstance(left_ms, int):
            raise ValueError("is not name, record and time")
        decoded = orjson.loads(record)
        return Member(
            name=name.decode(),
            instance=str(decoded["instance"]),
            epoch=int(decoded["epoch"]),
            cell=str(decoded["cell"]),
            host=str(decoded["host"]),
            pid=int(decoded["pid"]),
            joined=int(decoded["joined"]),
            left=int(decoded["left"]),
            props=dict(decoded["props"]),
            interval=max(float(decoded["interval"]), 0.001),
            ttl_ms=int(decoded["ttl_ms"]),
            heartbeat_ms=left_ms,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise DecodeError(f"the record of member {name!r:.200} is {record!r:.200}: {error!r}") from None
