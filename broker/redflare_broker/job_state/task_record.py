"""A job's tasks as records, and the hash in which Redis keeps each: the task and its client tasks.

The ledger of a link's task is a hash of other fields. A payload takes three kinds of fields: ``<name>`` is its JSON,
``<name>:blobs`` says where the buffers of a large one are, ``<name>:b0`` ... are those of a small one. Times are in
seconds of the server's clock here, in ms in Redis.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from redflare_broker.errors import DecodeError
from redflare_broker.payload.encoded_payload import EncodedPayload
from redflare_broker.transport.replies import Arg
from redflare_broker.wire.message_entry import pack_meta, unpack_meta
from redflare_broker.wire.task_entry import BlobRef

#: Status of a task that has not ended.
STANDING: Final = "STANDING"
_CLIENT: Final = b"client:"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTaskRecord:
    """One client task."""

    #: The client task's id.
    id: str
    #: The client's name.
    client: str
    #: When it was sent last, in seconds of the server's clock.
    sent: float
    #: When it was sent first, in seconds of the server's clock; 0: as ``sent``. Relays depend on this order.
    first_sent: float = 0.0
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
        """Encode the field ``client:<id>``; received comes first, where the script expects it."""
        return orjson.dumps(
            {
                "received": _ms(self.received),
                "client": self.client,
                "sent": _ms(self.sent),
                "first_sent": _ms(self.first_sent),
                "count": self.count,
                "rc": self.rc,
                "meta": orjson.Fragment(pack_meta(dict(self.meta))),
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRecord:
    """One task and its state."""

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
    #: The arguments of its scheduling, and what else the server needs after a restart.
    options: Mapping[str, Any] = field(default_factory=dict)
    #: What goes with the data: headers; JSON without arrays.
    meta: Mapping[str, Any] = field(default_factory=dict)
    #: The data; None: not kept, or the task has ended.
    data: EncodedPayload | None = None
    #: In the order in which they were sent first.
    client_tasks: tuple[ClientTaskRecord, ...] = ()


def fields_of(task: TaskRecord, *, data: bool) -> list[Arg]:
    """List field, value, field, value ... of a record without its client tasks; ``data``: with the task's data."""
    fields: list[Arg] = ["status", task.status, "name", task.name, "kind", task.kind, "order", task.order]
    fields += ["scheduled", _ms(task.scheduled), "ended", _ms(task.ended), "timeout", task.timeout]
    fields += ["targets", orjson.dumps(task.targets), "options", orjson.dumps(dict(task.options))]
    fields += ["meta", pack_meta(dict(task.meta))]
    return fields + payload_fields("data", task.data) if data else fields


def read_task(key: str, root_id: str, fields: Mapping[bytes, bytes]) -> TaskRecord:
    """Read the record of a task from the hash at ``key``.

    Raises:
        DecodeError: it is not one; the text names the key.
    """
    try:
        targets = orjson.loads(fields[b"targets"])
        clients = [_client_task(key, name, text, fields) for name, text in fields.items() if name.startswith(_CLIENT)]
        return TaskRecord(
            root_id=root_id,
            name=fields[b"name"].decode(),
            kind=fields[b"kind"].decode(),
            order=int(fields[b"order"]),
            scheduled=int(fields[b"scheduled"]) / 1000,
            status=fields[b"status"].decode(),
            ended=int(fields[b"ended"]) / 1000,
            timeout=int(fields[b"timeout"]),
            targets=None if targets is None else tuple(map(str, targets)),
            options=dict(orjson.loads(fields[b"options"])),
            meta=unpack_meta(fields[b"meta"]),
            data=payload_from(key, fields, "data"),
            client_tasks=tuple(sorted(clients, key=lambda client: client.first_sent or client.sent)),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise DecodeError(f"{key} is not the record of a task: {error!r}") from None


def _client_task(key: str, name: bytes, text: bytes, fields: Mapping[bytes, bytes]) -> ClientTaskRecord:
    decoded, task_id = orjson.loads(text), name.removeprefix(_CLIENT).decode()
    return ClientTaskRecord(
        id=task_id,
        client=str(decoded["client"]),
        sent=int(decoded["sent"]) / 1000,
        first_sent=int(decoded["first_sent"]) / 1000,
        count=int(decoded["count"]),
        received=int(decoded["received"]) / 1000,
        rc=str(decoded["rc"]),
        meta=unpack_meta(orjson.dumps(decoded["meta"])),
        result=payload_from(key, fields, f"result:{task_id}"),
    )


def payload_fields(name: str, payload: EncodedPayload | None) -> list[Arg]:
    """List the fields of a payload; none for None."""
    if payload is None:
        return []
    fields: list[Arg] = [name, payload.data]
    if payload.blob is not None:
        fields += [f"{name}:blobs", payload.blob.to_json()]
    for index, buffer in enumerate(payload.buffers):
        fields += [f"{name}:b{index}", buffer]
    return fields


def payload_from(key: str, fields: Mapping[bytes, bytes], name: str) -> EncodedPayload | None:
    """Read the payload in the fields ``name``; None when it has none.

    Raises:
        DecodeError: the reference to its buffers cannot be read.
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


def blob_of(payload: EncodedPayload | None) -> tuple[str, int]:
    """Prefix and number of chunks of a payload; ("", 0) when it has none."""
    return (payload.blob.prefix, payload.blob.chunks) if payload and payload.blob and payload.blob.chunks else ("", 0)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
