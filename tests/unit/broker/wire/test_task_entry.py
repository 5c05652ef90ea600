"""Entries of the streams: encoded as flat fields, and decoded with every field checked."""

from __future__ import annotations

from typing import Any

import pytest
from redflare_broker.errors import ConfigError, DecodeError
from redflare_broker.wire.task_entry import BlobRef, Entry, check_id

PREFIXES = ("flare:blob:{", "flare:{site--a}:blob:")
TASK = Entry(
    topic="get_task",
    task_id="t-1",
    task_name="train",
    epoch=3,
    session="cj-1",
    sender="cj-1",
    meta=b'{"round":1}',
    data=b'{"x":1}',
)


def wire(entry: Entry) -> list[bytes]:
    return [bytes(x) if isinstance(x, bytes | memoryview) else str(x).encode() for x in entry.fields()]


def parse(fields: dict[str, Any] | list[bytes], prefixes: tuple[str, ...] = PREFIXES) -> Entry:
    if isinstance(fields, dict):
        fields = [x if isinstance(x, bytes) else str(x).encode() for pair in fields.items() for x in pair]
    return Entry.parse("flare:{site--a}:tasks", "5-0", fields, prefixes)


def changed(**fields: Any) -> dict[str, Any]:
    """Return the fields of a valid task, some of them replaced, or left out when None."""
    flat = wire(TASK)
    good: dict[str, Any] = {name.decode(): value for name, value in zip(flat[::2], flat[1::2], strict=True)}
    return {name: value for name, value in (good | fields).items() if value is not None}


def test_an_entry_is_decoded_equal() -> None:
    blob = BlobRef(prefix="flare:blob:{abc}", chunk=1 << 20, sizes=(0, 5, 1 << 39))
    for entry in (
        TASK,
        Entry(topic="get_task", task_id="a.b:c~d", sender="s", rc="BAD_TASK_DATA", reason="cannot be read: ü"),
        Entry(topic="submit_result", rc="OK", sender="agent-1", buffers=(b"", b"abc")),
        Entry(topic="submit_result", task_id="t", sender="agent-1", blob=blob),
    ):
        assert parse(wire(entry)) == entry


def test_fields_are_in_reading_order() -> None:
    entry = Entry(topic="get_task", task_id="t", buffers=(b"x", memoryview(b"y")))
    assert entry.fields()[::2] == (
        ["v", "topic", "task_id", "task_name", "rc", "epoch", "session", "sender", "meta", "data", "b0", "b1"]
    )


def test_a_hello_needs_no_payload() -> None:
    entry = parse({"v": 1, "topic": "hello", "sender": "agent-1", "epoch": 7})
    assert (entry.topic, entry.sender, entry.epoch, entry.meta) == ("hello", "agent-1", 7, b"{}")


def test_a_field_of_a_later_release_is_ignored() -> None:
    assert parse(changed(priority="high", b="x", blue="y")) == TASK


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (changed(v=None), "field v is missing: this is not a message of redflare"),
        (changed(v=2), "field v: protocol version b'2' is not known here, only 1"),
        (changed(v=b"\xff"), r"field v: protocol version b'\\xff' is not known"),
        (changed(topic=None), "field topic: '' is not legal"),
        (changed(topic="rm -rf"), "field topic: 'rm -rf' is not legal"),
        (changed(topic=b"\xff\xfe"), "field topic: .* is not UTF-8"),
        (changed(sender=None), "field sender is missing"),
        (changed(epoch=None), "field epoch is missing"),
        (changed(task_id=None), "field task_id is missing"),
        (changed(task_name=None), "field task_name is missing"),
        (changed(rc=None), "field rc is missing"),
        (changed(meta=None), "field meta is missing"),
        (changed(data=None), "field data is missing"),
        (changed(topic="submit_result", data=None), "field data is missing"),
        (changed(epoch="three"), "field epoch: must be an integer, but is b'three'"),
        (changed(epoch="-1"), "field epoch: must be an integer"),
        (changed(epoch=" 1"), "field epoch: must be an integer"),
        (changed(epoch="٣"), "field epoch: must be an integer"),
        (changed(epoch=""), "field epoch: must be an integer"),
        (changed(epoch=10**20), "field epoch: must be an integer"),
        (changed(task_id="a/b"), "field task_id: 'a/b' is not made of"),
        (changed(task_id="a" * 201), "field task_id: 201 bytes, at most 200 are read"),
        (changed(task_name="a" * 1001), "field task_name: 1001 bytes"),
        (changed(sender="a" * 501), "field sender: 501 bytes"),
        (changed(session=b"\xc3("), r"field session: b'\\xc3\(' is not UTF-8"),
        (changed(b1="x"), "field b0 is missing: buffers are numbered from 0"),
        (changed(b0="x", b2="y"), "field b1 is missing"),
        (changed(b0="x", b01="y"), "field b1 is missing"),
        (changed(b0="x", blobs="{}"), "field blobs: is there beside b0"),
        ([b"v"], "has an odd number of fields and values"),
        ([b"v", b"1", b"v", b"1"], "it has a field twice"),
        ([], "field v is missing"),
    ],
)
def test_a_bad_entry_is_refused_with_key_entry_and_field(fields: dict[str, Any] | list[bytes], message: str) -> None:
    with pytest.raises(DecodeError, match=r"^flare:\{site--a\}:tasks entry 5-0: " + message):
        parse(fields)


@pytest.mark.parametrize(
    ("blobs", "message"),
    [
        ("nonsense", "unexpected|expected"),
        ("[]", "must have prefix, chunk and sizes"),
        ('{"prefix":"flare:blob:{x}","chunk":1}', "must have prefix, chunk and sizes"),
        ('{"prefix":"flare:blob:{x}","chunk":1,"sizes":[],"more":1}', "must have prefix, chunk and sizes"),
        ('{"prefix":"other:blob:{x}","chunk":1,"sizes":[1]}', "prefix 'other:blob:{x}' is not under flare:blob"),
        ('{"prefix":"flare:{site--b}:blob:x","chunk":1,"sizes":[1]}', "is not under flare:blob"),
        ('{"prefix":"flare:blob:{x} y","chunk":1,"sizes":[1]}', "is not a legal key"),
        ('{"prefix":"","chunk":1,"sizes":[1]}', "is not a legal key"),
        ('{"prefix":["flare:blob:{x}"],"chunk":1,"sizes":[1]}', "is not a legal key"),
        ('{"prefix":"flare:blob:{x}","chunk":0,"sizes":[1]}', "chunk must be a positive int"),
        ('{"prefix":"flare:blob:{x}","chunk":true,"sizes":[1]}', "chunk must be a positive int"),
        ('{"prefix":"flare:blob:{x}","chunk":1,"sizes":[-1]}', "sizes must be a list of sizes"),
        ('{"prefix":"flare:blob:{x}","chunk":1,"sizes":[true]}', "sizes must be a list of sizes"),
        ('{"prefix":"flare:blob:{x}","chunk":1,"sizes":[1.5]}', "sizes must be a list of sizes"),
        ('{"prefix":"flare:blob:{x}","chunk":1,"sizes":1}', "sizes must be a list of sizes"),
        ('{"prefix":"flare:blob:{x}","chunk":1,"sizes":[9007199254740993]}', "sizes must be a list of sizes"),
        ('{"prefix":"flare:blob:{x}","chunk":1,"sizes":[1000001]}', "1000001 chunks are too many"),
    ],
)
def test_a_bad_blob_reference_is_refused(blobs: str, message: str) -> None:
    with pytest.raises(DecodeError, match=f"entry 5-0: field blobs: .*({message})"):
        parse(changed(blobs=blobs))


def test_a_blob_is_refused_when_no_prefix_is_allowed() -> None:
    with pytest.raises(DecodeError, match="is not under any that is allowed"):
        parse(changed(blobs='{"prefix":"flare:blob:{x}","chunk":1,"sizes":[1]}'), ())


def test_a_blob_reference_knows_its_chunks() -> None:
    def chunks(*sizes: int) -> int:
        return BlobRef(prefix="p", chunk=10, sizes=sizes).chunks

    assert [chunks(), chunks(0), chunks(1), chunks(4, 6), chunks(4, 7)] == [0, 0, 1, 1, 2]


@pytest.mark.parametrize("task_id", ["a", "A.b-c_d~e:9", "x" * 200])
def test_a_legal_task_id_is_returned(task_id: str) -> None:
    assert check_id(task_id) == task_id


@pytest.mark.parametrize("task_id", ["", "x" * 201, "a b", "a/b", "a{b}", "a\n", "ü", None, 3, b"a"])
def test_an_illegal_task_id_is_named(task_id: object) -> None:
    with pytest.raises(ConfigError, match="task_id must be a str of 1 to 200"):
        check_id(task_id)
