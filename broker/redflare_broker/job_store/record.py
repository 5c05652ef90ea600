"""What the job store tells of a job: its record, read and checked, and the lines of its log.

A job's status only moves forward: SUBMITTED, APPROVED, DISPATCHED, RUNNING, then one FINISHED:* that never changes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import orjson

from redflare_broker.errors import ConfigError, DecodeError
from redflare_broker.transport.replies import Arg
from redflare_broker.wire.task_entry import BlobRef

SUBMITTED: Final = "SUBMITTED"
APPROVED: Final = "APPROVED"
DISPATCHED: Final = "DISPATCHED"
RUNNING: Final = "RUNNING"
COMPLETED: Final = "FINISHED:COMPLETED"
ABORTED: Final = "FINISHED:ABORTED"
EXECUTION_EXCEPTION: Final = "FINISHED:EXECUTION_EXCEPTION"
ABNORMAL: Final = "FINISHED:ABNORMAL"
CAN_NOT_SCHEDULE: Final = "FINISHED:CAN_NOT_SCHEDULE"
FAILED_TO_RUN: Final = "FINISHED:FAILED_TO_RUN"

#: In their order.
UNFINISHED: Final = (SUBMITTED, APPROVED, DISPATCHED, RUNNING)
FINISHED: Final = (COMPLETED, ABORTED, EXECUTION_EXCEPTION, ABNORMAL, CAN_NOT_SCHEDULE, FAILED_TO_RUN)
STATUSES: Final = (*UNFINISHED, *FINISHED)

#: Before the last lines of a log, behind the reason of a failure.
LOG_TAIL: Final = "the end of its log:"

_LINE_ID: Final = re.compile(r"[0-9]{1,18}(-[0-9]{1,18})?")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_SITE: Final = "site:"
#: States of agents whose work was over when they ended, or that never began.
_ENDED: Final = ("left", "never")


def check_status(status: object) -> str:
    """Return a job's status unchanged when it is one; ConfigError otherwise."""
    if status not in STATUSES:
        raise ConfigError(f"a job's status must be one of {', '.join(STATUSES)}, but is {status!r:.300}")
    return str(status)


def check_after(line_id: object) -> str:
    """Return the id of a line unchanged when it is one; ConfigError otherwise."""
    if not isinstance(line_id, str) or not _LINE_ID.fullmatch(line_id):
        raise ConfigError(f"the id of a line of a log must look like 1795345193440-0, but is {line_id!r:.100}")
    return line_id


def summary(reason: str) -> str:
    """Return a reason on one line, without the end of a log that may stand behind it.

    Lines below one that ends with a colon are its items: ``the job cannot be used: meta.json: name ...; ...``.
    """
    lines = [" ".join(line.split()) for line in reason.partition(f"\n{LOG_TAIL}\n")[0].split("\n")]
    kept = [line for line in lines if line]
    ended = [line if line.endswith(":") else f"{line};" for line in kept[:-1]]
    return " ".join([*ended, *kept[-1:]])


def is_finished(status: str) -> bool:
    """Whether a job of this status is over."""
    return status.startswith("FINISHED:")


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusChange:
    """One change of a job's status."""

    status: str
    #: When, in ms by Redis's clock.
    at: int
    reason: str = ""
    #: Who changed it: a user, the server, a site.
    by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteState:
    """What became of a job at one site."""

    #: In the words of the server and the site: deployed, started, stopped, ...
    status: str
    #: Since when, in ms by Redis's clock; 0: it is not recorded yet.
    at: int = 0
    #: Of the job's process; None: it has not ended, or nobody knows.
    exit_code: int | None = None
    reason: str = ""
    #: How an abort ended its process: cooperative, terminated, killed.
    how: str = ""
    #: What became of its agents then, by FQCN: left, killed, ...
    agents: Mapping[str, str] = field(default_factory=dict)

    @property
    def details(self) -> dict[str, Any]:
        """What the store keeps beside the status."""
        return {"exit_code": self.exit_code, "reason": self.reason, "how": self.how, "agents": self.agents}

    @property
    def agents_left(self) -> str:
        """Name the agents that did not end by themselves: ``agent site-1--trainer killed``; "" if all did."""
        odd = [f"agent {name} {state}" for name, state in self.agents.items() if state not in _ENDED]
        return ", ".join(odd)


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitReason:
    """Why a job does not go on, and since when, in ms by Redis's clock."""

    reason: str
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """A file of a job, in chunks."""

    blob: BlobRef
    #: Of its content, in hex.
    sha256: str

    @property
    def nbytes(self) -> int:
        return self.blob.nbytes

    def to_json(self) -> bytes:
        return orjson.dumps({**orjson.loads(self.blob.to_json()), "sha256": self.sha256})


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """One job; times are in ms by Redis's clock."""

    id: str
    status: str
    name: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)
    submitter: str = ""
    submitted: int = 0
    #: When its status changed last.
    changed: int = 0
    #: Of the last change.
    reason: str = ""
    history: tuple[StatusChange, ...] = ()
    sites: Mapping[str, SiteState] = field(default_factory=dict)
    #: Why it does not go on; None: it does, or the reason is unknown.
    waiting: WaitReason | None = None
    #: By app: the agents that its executors name; with ``agent_id`` of the meta, those that it works with at a site.
    agents: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    #: When its abort was asked for; 0: it was not.
    abort: int = 0
    abort_by: str = ""
    abort_reason: str = ""
    archive: StoredFile | None = None
    result: StoredFile | None = None
    #: Identifies the job for those who submit it again.
    fingerprint: str = ""
    #: New for each job. When Redis has lost one, and another is submitted under its id, it tells them apart.
    submission: str = ""

    @property
    def finished(self) -> bool:
        return is_finished(self.status)

    @property
    def abort_requested(self) -> bool:
        """Somebody wants it to end, and it has not: only a FINISHED:* may follow."""
        return bool(self.abort) and not self.finished

    def to_json(self) -> dict[str, object]:
        """Show it to people and programs, without where its files are stored."""
        hidden = ("archive", "result", "fingerprint", "submission")
        fields = {name: value for name, value in asdict(self).items() if name not in hidden}
        files = (("archive", self.archive), ("result", self.result))
        sizes = {f"{name}_bytes": file.nbytes if file else None for name, file in files}
        return {**fields, "finished": self.finished, **sizes}


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """One line of a job's log."""

    #: Of its entry; ``after`` of the next read.
    id: str
    #: Who wrote it: a site, the server; "" for a change of status.
    site: str
    text: str
    level: str = ""
    #: The job came to this status; "" for an ordinary line.
    status: str = ""

    @property
    def at(self) -> int:
        """When it was written, in ms by Redis's clock."""
        return int(self.id.partition("-")[0])

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "at": self.at}


def read_record(key: str, job_id: str, fields: Mapping[bytes, bytes], prefix: str) -> JobRecord:
    """Return a record from its hash.

    Args:
        key: of the hash, for messages.
        job_id: the job's.
        fields: of the hash.
        prefix: what the names of its files begin with.

    Raises:
        DecodeError: somebody else has written into it.
    """
    try:
        texts = {name.decode(): value.decode() for name, value in fields.items()}
        waiting = texts.get("waiting")
        return JobRecord(
            id=job_id,
            status=check_status(texts.get("status")),
            name=texts.get("name", ""),
            meta=dict(orjson.loads(texts.get("meta", "{}"))),
            submitter=texts.get("submitter", ""),
            submitted=int(texts.get("submitted", 0)),
            changed=int(texts.get("changed", 0)),
            reason=texts.get("reason", ""),
            history=tuple(_status_change(each) for each in orjson.loads(texts.get("history", "[]"))),
            sites={
                name.removeprefix(_SITE): _site(value)
                for name, value in sorted(texts.items())
                if name.startswith(_SITE)
            },
            waiting=_waiting(waiting) if waiting else None,
            agents=_agents(texts["agents"]) if "agents" in texts else {},
            abort=int(texts.get("abort", 0)),
            abort_by=texts.get("abort_by", ""),
            abort_reason=texts.get("abort_reason", ""),
            archive=_file(texts.get("archive"), prefix),
            result=_file(texts.get("result"), prefix),
            fingerprint=texts.get("fingerprint", ""),
            submission=texts.get("submission", ""),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DecodeError(f"{key} is not the record of a job: {error}") from None


def record_fields(record: JobRecord) -> list[Arg]:
    """Return the fields of a record's hash, without its files, from which ``read_record`` makes it again."""
    fields: dict[str, Arg] = {
        name: getattr(record, name)
        for name in ("status", "name", "submitter", "submitted", "changed", "reason", "fingerprint", "submission")
    }
    fields |= {name: getattr(record, name) for name in ("abort", "abort_by", "abort_reason")}
    fields["meta"] = orjson.dumps(dict(record.meta))
    fields["history"] = orjson.dumps([asdict(change) for change in record.history])
    if record.agents:
        fields["agents"] = orjson.dumps({"at": record.changed, "apps": dict(record.agents)})
    for site, state in record.sites.items():
        fields[f"{_SITE}{site}"] = orjson.dumps(
            {name: value for name, value in asdict(state).items() if value not in (None, "", {}) or name == "reason"}
        )
    return [word for pair in fields.items() for word in pair]


def read_line(key: str, entry_id: str, flat: Sequence[bytes]) -> LogLine:
    """Return a line from its entry; what is no text is shown as it is."""
    fields = dict(zip(flat[::2], flat[1::2], strict=False))
    texts = {name: fields.get(name.encode(), b"").decode("utf-8", "backslashreplace") for name in _LINE}
    if not texts["text"] and not texts["status"] and not texts["site"]:
        raise DecodeError(f"{key} entry {entry_id} is not a line of a log: {flat!r:.200}")
    return LogLine(id=entry_id, **texts)


_LINE: Final = ("site", "text", "level", "status")


def _status_change(decoded: Any) -> StatusChange:
    return StatusChange(
        status=str(decoded["status"]), at=int(decoded["at"]), reason=str(decoded["reason"]), by=str(decoded["by"])
    )


def _site(text: str) -> SiteState:
    decoded = orjson.loads(text)
    code = decoded.get("exit_code")
    return SiteState(
        status=str(decoded["status"]),
        at=int(decoded["at"]),
        exit_code=None if code is None else int(code),
        reason=str(decoded.get("reason", "")),
        how=str(decoded.get("how", "")),
        agents={str(name): str(state) for name, state in decoded.get("agents", {}).items()},
    )


def _agents(text: str) -> dict[str, tuple[str, ...]]:
    return {str(app): tuple(map(str, names)) for app, names in orjson.loads(text)["apps"].items()}


def _waiting(text: str) -> WaitReason:
    decoded = orjson.loads(text)
    return WaitReason(reason=str(decoded["reason"]), at=int(decoded["at"]))


def _file(text: str | None, prefix: str) -> StoredFile | None:
    if not text:
        return None
    decoded = orjson.loads(text)
    sha256 = decoded.pop("sha256")
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise ValueError(f"sha256 is {sha256!r:.100}")
    return StoredFile(blob=BlobRef.from_json(orjson.dumps(decoded), (prefix,)), sha256=sha256)
