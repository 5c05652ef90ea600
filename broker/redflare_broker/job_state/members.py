"""The roll of a job: which clients take part, which of them are alive, and whether the job goes on.

A client job *joins* under its site's name, *beats* while it lives and *leaves* in the end; the newest instance of a
name wins, as on a link. The server *begins* the job, *calls the roll* with each of its own beats, and *ends* the job.
Clients may join before the server has begun. Ages are measured by Redis's clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import orjson

from redflare_broker.config.retention import RetentionPolicy
from redflare_broker.constants import PROTOCOL_VERSION
from redflare_broker.errors import DecodeError, Fenced, JobEnded, JobLost
from redflare_broker.keys import JobKeys
from redflare_broker.scripts.job_scripts import RESUMED, JobScripts
from redflare_broker.scripts.lease import Lease
from redflare_broker.scripts.script import ENDED, FENCED, LOST, NEXT, OK, ScriptReply, parse_reply, run_command
from redflare_broker.transport.connection import Connection
from redflare_broker.transport.replies import Arg, RedisReply

__all__ = [
    "JobStart",
    "Lease",
    "Member",
    "MemberBeat",
    "MemberList",
    "Members",
    "check",
    "read_entry",
]

_NO_HEARTBEAT: Final = -2


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStart:
    """What ``Members.begin`` found."""

    #: A previous run's state goes on; otherwise the job is new, or was begun anew.
    resumed: bool
    #: The run before this one; "" when there is none that Redis knows.
    previous: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberBeat:
    """What a client's beat was answered."""

    #: OK; FENCED: a newer instance of this client is there; LOST: join again; ENDED: the job is over.
    status: str
    #: The server's run; "" before its first start.
    run: str = ""
    #: Seconds since the server's last beat by Redis's clock; None when no heartbeat of it stands.
    server_age: float | None = None
    #: Instance of the server's cell that the heartbeat tells.
    server_instance: str = ""
    #: Why the job has ended.
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One client on the roll."""

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
    #: Seconds between two of its heartbeats, and how long each stands in ms.
    interval: float = 5.0
    ttl_ms: int = 60_000
    #: What is left of its heartbeat's life in ms; -2: it has none, the client is silent.
    heartbeat_ms: int = _NO_HEARTBEAT

    @property
    def alive(self) -> bool:
        """Whether it has not left and its heartbeat stands."""
        return not self.left and self.heartbeat_ms != _NO_HEARTBEAT

    @property
    def missed_beats(self) -> float:
        """Age of its last heartbeat, in intervals; one that is due just now is 1."""
        return (self.ttl_ms - self.heartbeat_ms) / 1000 / self.interval


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberList:
    """What ``Members.roll_call_command`` was answered."""

    #: OK; FENCED: a newer server is there; LOST: begin again and write the tasks anew; ENDED: the job is over.
    status: str
    entries: tuple[Member, ...] = ()
    #: Why the job has ended.
    reason: str = ""


class Members:
    """The steps of one job's roll; holds no connection and no thread.

    Args:
        keys: of the job.
        policy: how long its keys stand.
    """

    def __init__(self, keys: JobKeys, policy: RetentionPolicy) -> None:
        self.keys = keys
        self._scripts = JobScripts(keys=keys, policy=policy)

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
        """Enter the roll; with an epoch, enter it again after Redis lost it. An epoch is kept for life.

        Args:
            cell: FQCN of the client's cell.
            props: public properties of the client.
            interval: seconds between two of its heartbeats.
            ttl_ms: how long each of them stands.
            beating: show a first heartbeat in the same step, or a server that reads the roll now takes it for silent.

        Returns:
            OK and the epoch; FENCED and the epoch of the newer instance; ENDED and the reason.
        """
        about = {"cell": cell, "props": dict(props or {}), "interval": interval, "ttl_ms": ttl_ms}
        said = self._join(connection, lease, about, beating)
        if said.status == NEXT:
            said = self._join(connection, replace(lease, epoch=said.number()), about, beating)
        return said

    def _join(self, connection: Connection, lease: Lease, about: Mapping[str, Any], beating: bool) -> ScriptReply:
        record = {
            "instance": lease.instance,
            "epoch": lease.epoch,
            "host": lease.host,
            "pid": lease.pid,
            **about,
        }
        beat = _beat(lease, about["interval"], about["ttl_ms"]) if beating else b""
        return run_command(
            connection, "job/join", self._scripts.join(lease, orjson.dumps(record), beat, about["ttl_ms"])
        )

    def beat_command(self, lease: Lease, *, interval: float, ttl_ms: int) -> list[Arg]:
        """The heartbeat as a command, for the heartbeat thread; read its reply with ``read_beat``.

        Args:
            interval: seconds between two beats, told in the heartbeat.
            ttl_ms: how long the heartbeat stands.
        """
        return self._scripts.beat(lease, _beat(lease, interval, ttl_ms), ttl_ms)

    @staticmethod
    def read_beat(reply: RedisReply) -> MemberBeat:
        """What a heartbeat was answered.

        Raises:
            ServerError: the server refused the command.
        """
        said = parse_reply("job/beat", reply)
        if said.status == ENDED:
            return MemberBeat(status=ENDED, reason=said.text())
        if said.status != OK:
            return MemberBeat(status=said.status)
        age, instance = _server_of(said.text(1), said.number(2))
        return MemberBeat(status=OK, run=said.text(), server_age=age, server_instance=instance)

    def leave(self, connection: Connection, lease: Lease) -> ScriptReply:
        """Leave for good: the heartbeat goes, and the roll notes when.

        Returns:
            OK, also when it has left before; FENCED; LOST.
        """
        return run_command(connection, "job/leave", self._scripts.leave(lease))

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
        said = check(run_command(connection, "job/begin", self._scripts.begin(lease, resume=resume)), self.keys)
        return JobStart(resumed=said.text() == RESUMED, previous=said.text(1))

    def roll_call_command(self, lease: Lease) -> list[Arg]:
        """Read the roll, and let all keys of the job live on; read the reply with ``read_roll_call``."""
        return self._scripts.roll_call(lease)

    @staticmethod
    def read_roll_call(reply: RedisReply) -> MemberList:
        """The roll, by name.

        Raises:
            ServerError: the server refused the command.
            DecodeError: somebody else has written into the roll.
        """
        return _roll_call(parse_reply("job/roll", reply))

    def roll_call(self, connection: Connection, lease: Lease) -> MemberList:
        """``roll_call_command``, now."""
        return _roll_call(run_command(connection, "job/roll", self._scripts.roll_call(lease)))

    def end(self, connection: Connection, lease: Lease, status: str = ENDED, reason: str = "") -> None:
        """The job is over: clients hear it with their next beat, and all its keys expire after a while.

        The first end counts.

        Args:
            status: anything but RUNNING, for people.

        Raises:
            Fenced: a newer server is there.
            JobLost: Redis has lost the job.
        """
        check(run_command(connection, "job/end", self._scripts.end(lease, status, reason)), self.keys)


def _beat(lease: Lease, interval: float, ttl_ms: int) -> bytes:
    beat = {
        "instance": lease.instance,
        "epoch": lease.epoch,
        "host": lease.host,
        "pid": lease.pid,
        "interval": interval,
        "ttl_ms": ttl_ms,
        "version": PROTOCOL_VERSION,
    }
    return orjson.dumps(beat)


def _roll_call(said: ScriptReply) -> MemberList:
    if said.status != OK:
        return MemberList(status=said.status, reason=said.text())
    rest = said.rest
    entries = [read_entry(*rest[index : index + 3]) for index in range(0, len(rest), 3)]
    return MemberList(status=OK, entries=tuple(sorted(entries, key=lambda entry: entry.name)))


def check(said: ScriptReply, keys: JobKeys) -> ScriptReply:
    """The answer to a server's step when it took effect.

    Raises:
        Fenced: a newer server is there.
        JobLost: Redis has lost the job.
        JobEnded: the job is over.
    """
    if said.status == FENCED:
        raise Fenced(f"a newer server has taken over {keys.fqcn}; this one must stop")
    if said.status == LOST:
        raise JobLost(f"Redis does not know this run of {keys.fqcn}: begin it again and write its tasks anew")
    if said.status == ENDED:
        raise JobEnded(f"{keys.fqcn} has ended{': ' + said.text() if said.text() else ''}")
    return said


def _server_of(beat: str, left_ms: int) -> tuple[float | None, str]:
    """Age in seconds and instance that the heartbeat of the server's cell tells."""
    try:
        told = orjson.loads(beat)
        return max(0.0, (int(told["ttl_ms"]) - left_ms) / 1000), str(told.get("instance", ""))
    except (ValueError, KeyError, TypeError):
        # none stands, or it is not one of ours
        return None, ""


def read_entry(name: RedisReply, record: RedisReply, left_ms: RedisReply) -> Member:
    """One client by its name, its record and the PTTL of its heartbeat; DecodeError: it is not a record of ours."""
    try:
        if not isinstance(name, bytes) or not isinstance(record, bytes) or not isinstance(left_ms, int):
            raise ValueError("is not name, record and time")
        told = orjson.loads(record)
        return Member(
            name=name.decode(),
            instance=str(told["instance"]),
            epoch=int(told["epoch"]),
            cell=str(told["cell"]),
            host=str(told["host"]),
            pid=int(told["pid"]),
            joined=int(told["joined"]),
            left=int(told["left"]),
            props=dict(told["props"]),
            interval=max(float(told["interval"]), 0.001),
            ttl_ms=int(told["ttl_ms"]),
            heartbeat_ms=left_ms,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise DecodeError(f"the roll's record of client {name!r:.200} is {record!r:.200}: {error!r}") from None
