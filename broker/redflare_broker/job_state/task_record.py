"""The records of a job's tasks, and how they stand in the hash that is a task's ledger.

A sealed payload stands in three kinds of fields: ``<name>`` is its JSON, ``<name>:blobs`` says where the buffers of a
large one are, ``<name>:b0`` ... are those of a small one. Times are in seconds of the server's clock here, in ms there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from redflare_broker.errors import DecodeError
from redflare_broker.payload.encoded_payload import EncodedPayload
from redflare_broker.transport.replies import Arg
from redflare_broker.wire.codec import decode, encode
from redflare_broker.wire.task_entry import BlobRef

#: Status of a task that has not ended.
STANDING: Final = "STANDING"
_CLIENT: Final = b"client:"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTaskRecord:
    """One client's share of a task."""

    #: The client task's id.
    id: str
    #: The client's name.
    client: str
    #: When it was sent last, in seconds of the server's clock.
    sent: float
    #: How many times it was sent.
    count: int = 1
    #: When its result came in; 0: it has not.
    received: float = 0.0
    #: Return code of the result.
    rc: str = ""
    #: What goes with the result: its headers; JSON without arrays.
    meta: Mapping[str, Any] = field(default_factory=dict)
    #: The result; None: there is none, or a checkpoint contains it, or it is not kept.
    result: EncodedPayload | None = None

    def to_json(self) -> bytes:
        """The value of the field ``client:<id>``; received comes first, where the script looks for it."""
        return orjson.dumps(
            {
                "received": _ms(self.received),
                "client": self.client,
                "sent": _ms(self.sent),
                "count": self.count,
                "rc": self.rc,
                "meta": orjson.Fragment(_pack(self.meta)),
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRecord:
    """One task and what became of it."""

    root_id: str
    name: str
    #: broadcast, broadcast_forever, send or relay.
    kind: str
    #: Position in the order in which tasks were scheduled.
    order: int
    #: When it was scheduled, in seconds of the server's clock.
    scheduled: float
    #: STANDING, or its completion status.
    status: str = STANDING
    #: When it ended; 0: it has not.
    ended: float = 0.0
    timeout: int = 0
    #: Names of its targets; None: whoever joins.
    targets: tuple[str, ...] | None = None
    #: The arguments of its scheduling, and whatever else the server wants to find again.
    options: Mapping[str, Any] = field(default_factory=dict)
    #: What goes with the data: headers; JSON without arrays.
    meta: Mapping[str, Any] = field(default_factory=dict)
    #: The data; None: not kept, or the task has ended.
    data: EncodedPayload | None = None
    #: In the order in which they were sent first.
    client_tasks: tuple[ClientTaskRecord, ...] = ()


def fields_of(task: TaskRecord, *, data: bool) -> list[Arg]:
    """Field, value, field, value ... of a ledger without its client tasks; with ``data``, with the task's data."""
    fields: list[Arg] = ["status", task.status, "name", task.name, "kind", task.kind, "order", task.order]
    fields += ["scheduled", _ms(task.scheduled), "ended", _ms(task.ended), "timeout", task.timeout]
    fields += ["targets", orjson.dumps(task.targets), "options", orjson.dumps(dict(task.options))]
    fields += ["meta", _pack(task.meta)]
    return fields + sealed_fields("data", task.data) if data else fields


def read_task(key: str, root_id: str, ledger: Mapping[bytes, bytes]) -> TaskRecord:
    """Read the ledger that stands at ``key``.

    Raises:
        DecodeError: it is not one; the text names the key.
    """
    try:
        targets = orjson.loads(ledger[b"targets"])
        clients = [_client_task(key, name, text, ledger) for name, text in ledger.items() if name.startswith(_CLIENT)]
        return TaskRecord(
            root_id=root_id,
            name=ledger[b"name"].decode(),
            kind=ledger[b"kind"].decode(),
            order=int(ledger[b"order"]),
            scheduled=int(ledger[b"scheduled"]) / 1000,
            status=ledger[b"status"].decode(),
            ended=int(ledger[b"ended"]) / 1000,
            timeout=int(ledger[b"timeout"]),
            targets=None if targets is None else tuple(map(str, targets)),
            options=dict(orjson.loads(ledger[b"options"])),
            meta=_unpack(ledger[b"meta"]),
            data=sealed_from(key, ledger, "data"),
            client_tasks=tuple(sorted(clients, key=lambda client: client.sent)),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise DecodeError(f"{key} is not the ledger of a task: {error!r}") from None


def _client_task(key: str, name: bytes, text: bytes, ledger: Mapping[bytes, bytes]) -> ClientTaskRecord:
    told, task_id = orjson.loads(text), name.removeprefix(_CLIENT).decode()
    return ClientTaskRecord(
        id=task_id,
        client=str(told["client"]),
        sent=int(told["sent"]) / 1000,
        count=int(told["count"]),
        received=int(told["received"]) / 1000,
        rc=str(told["rc"]),
        meta=_unpack(orjson.dumps(told["meta"])),
        result=sealed_from(key, ledger, f"result:{task_id}"),
    )


def _pack(meta: Mapping[str, Any]) -> bytes:
    """Meta as messages have it: also what JSON alone has no word for, like a numpy scalar or nan."""
    return encode(dict(meta), None).meta


def _unpack(text: bytes) -> dict[str, Any]:
    return decode(text, b"null", ())[0]


def sealed_fields(name: str, sealed: EncodedPayload | None) -> list[Arg]:
    """The fields of a payload; none for None."""
    if sealed is None:
        return []
    fields: list[Arg] = [name, sealed.data]
    if sealed.blob is not None:
        fields += [f"{name}:blobs", sealed.blob.to_json()]
    for index, buffer in enumerate(sealed.buffers):
        fields += [f"{name}:b{index}", buffer]
    return fields


def sealed_from(key: str, fields: Mapping[bytes, bytes], name: str) -> EncodedPayload | None:
    """The payload that stands in the fields ``name``; None when there is none.

    Raises:
        DecodeError: where its buffers stand cannot be read.
    """
    data = fields.get(name.encode())
    if data is None:
        return None
    buffers: list[bytes] = []
    while (buffer := fields.get(f"{name}:b{len(buffers)}".encode())) is not None:
        buffers.append(buffer)
    ref = fields.get(f"{name}:blobs".encode())
    try:
        # the job's own keys, written by its server: any prefix is a legal one
        return EncodedPayload(data, tuple(buffers), BlobRef.from_json(ref, ("",)) if ref is not None else None)
    except ValueError as error:
        raise DecodeError(f"{key} field {name}:blobs: {error}") from None


def blob_of(sealed: EncodedPayload | None) -> tuple[str, int]:
    """Prefix and number of chunks of a payload; ("", 0) when it has none."""
    return (sealed.blob.prefix, sealed.blob.chunks) if sealed and sealed.blob and sealed.blob.chunks else ("", 0)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
