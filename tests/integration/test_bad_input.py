"""Foreign or false bytes in the streams of a running agent and CJ: each causes a clear error, and the link works on."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.link.processes import Fields, LinkProcesses, pause, resume
from tests.support.process.child import Child
from tests.support.waiting import wait_until

Damage = Callable[[Fields], Fields]
#: Bytes by which a process may grow, whatever an entry claims: those of a million values, which are allowed.
BOUND = 400 << 20


def change(**changes: bytes) -> Damage:
    """Return a damage: fields that are replaced."""
    return lambda fields: {**fields, **{name.encode(): value for name, value in changes.items()}}


def with_blobs(claim: bytes) -> Damage:
    """Return a damage: a blob reference in the place of the buffer."""
    return lambda fields: {**{name: fields[name] for name in fields if name != b"b0"}, b"blobs": claim}


def million_keys() -> bytes:
    return b'{"data":{' + b",".join(b'"%d":0' % number for number in range(1_000_001)) + b"}}"


#: Name, damage of an entry whose data is {"w": array}, and a word of the error.
DAMAGES: list[tuple[str, Damage, str]] = [
    ("a buffer that was cut", lambda fields: {**fields, b"b0": fields[b"b0"][:-3]}, "bytes"),
    ("a buffer that is missing", lambda fields: {name: fields[name] for name in fields if name != b"b0"}, "buffer"),
    ("a size that lies about its shape", change(data=b'{"w":{"$nd":[0,"float64",[1000]]}}'), "bytes"),
    ("10 GB in 100 bytes", change(data=b'{"w":{"$nd":[0,"float64",[1250000000]]}}'), "bytes"),
    ("a shape that overflows", change(data=b'{"w":{"$nd":[0,"float64",[4611686018427387904,4]]}}'), "bytes|shape"),
    ("a negative shape", change(data=b'{"w":{"$nd":[0,"float64",[-1]]}}'), "shape"),
    ("a foreign dtype", change(data=b'{"w":{"$nd":[0,"object",[3]]}}'), "object"),
    ("a dtype with code in its name", change(data=b'{"w":{"$nd":[0,"__import__(\'os\')",[3]]}}'), "dtype"),
    ("deep nesting", change(data=b"[" * 100_000 + b"]" * 100_000), "deep|nest|depth|level"),
    ("a million keys", change(data=million_keys()), "values|items|keys"),
    ("a lone surrogate", change(data=b'{"w":"\\ud800"}'), "JSON|surrogate"),
    ("no JSON at all", change(data=b"\x80\x04pickle"), "JSON"),
    ("an unknown protocol version", change(v=b"99"), "version"),
    ("a blob of another key", with_blobs(b'{"prefix":"flare:link","chunk":1,"sizes":[24]}'), "prefix"),
    ("blobs of 10 GB", with_blobs(b'{"prefix":"%s","chunk":1048576,"sizes":[10000000000]}'), "bytes|max_bytes"),
]


def damaged(damage: Damage, processes: LinkProcesses, fields: Fields) -> Fields:
    """Return an entry after ``damage``, with a legal prefix where it needs one."""
    own = processes.keys.task_blob("x").encode()
    return {name: value.replace(b"%s", own) for name, value in damage(fields).items()}


def replace_entry(processes: LinkProcesses, stream: str, field: str, damage: Damage) -> None:
    """Replace the entry of the open task by a damaged copy, as a faulty sender would have written it."""
    [(entry, fields)] = [found for found in processes.entries(stream) if found[1].get(b"task_id") == b"t"]
    processes.client.xdel(stream, entry)
    copy = processes.client.xadd(stream, damaged(damage, processes, fields))  # type: ignore[arg-type]
    processes.client.hset(processes.keys.task("t"), field, copy)


def dead_reasons(processes: LinkProcesses) -> list[str]:
    return [fields[b"reason"].decode() for _, fields in processes.entries(processes.keys.dead)]


def peak_of(child: Child) -> int:
    """The child's highest memory use since ``forget_peak``."""
    status = Path(f"/proc/{child.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found
    return int(found[1]) << 10


def forget_peak(child: Child) -> int:
    Path(f"/proc/{child.pid}/clear_refs").write_text("5")
    return peak_of(child)


def assert_next_works(cj: Child, agent: Child) -> None:
    agent.send("serve")
    cj.send("run", "next", {"w": np.arange(3.0)})
    task_id, data = cj.receive("result")
    assert task_id == "next"
    np.testing.assert_array_equal(data["w"], np.arange(3.0))


@pytest.mark.parametrize(("damage", "word"), [case[1:] for case in DAMAGES], ids=[case[0] for case in DAMAGES])
def test_a_bad_task_is_rejected_kept_and_followed_by_a_good_one(
    processes: LinkProcesses, damage: Damage, word: str
) -> None:
    cj, agent = processes.cj(), processes.agent()
    cj.send("run", "t", {"w": np.arange(3.0)})
    processes.until("t", "NEW")
    replace_entry(processes, processes.keys.tasks, "entry", damage)
    before = forget_peak(agent)
    agent.send("get")
    task_id, kind, message = cj.receive("failed")
    assert (task_id, kind) == ("t", "TaskRejected")
    assert re.search(word, message), message
    assert peak_of(agent) - before < BOUND
    [reason] = dead_reasons(processes)
    assert re.search(word, reason), reason
    cj.send("run", "next", {"w": np.arange(3.0)})
    agent.receive("task")
    agent.send("echo")
    assert cj.receive("result")[0] == "next"
    assert processes.status("t") == "REJECTED"
    assert processes.client.xlen(processes.keys.tasks) == 0


@pytest.mark.parametrize(("damage", "word"), [case[1:] for case in DAMAGES], ids=[case[0] for case in DAMAGES])
def test_a_bad_result_is_rejected_kept_and_followed_by_a_good_one(
    processes: LinkProcesses, damage: Damage, word: str
) -> None:
    first = processes.cj()
    first.send("run", "t", {"w": np.arange(3.0)})
    agent = processes.agent_with_task()
    first.kill()
    agent.send("echo")
    processes.until("t", "SUBMITTED")
    replace_entry(processes, processes.keys.results, "result", damage)
    cj = processes.cj()
    before = forget_peak(cj)
    cj.send("run", "t", {"w": np.arange(3.0)})
    task_id, kind, message = cj.receive("failed")
    assert (task_id, kind) == ("t", "TaskRejected")
    assert re.search(word, message), message
    agent.receive("submitted")  # True, when it was accepted in the round trip that brought it, and taken back
    assert peak_of(cj) - before < BOUND
    [reason] = dead_reasons(processes)
    assert re.search(word, reason), reason
    assert_next_works(cj, agent)
    assert processes.status("t") == "REJECTED"


FOREIGN: list[dict[bytes, bytes]] = [
    {b"hello": b"\xff\xfe\x00 not ours"},
    {b"v": b"99", b"topic": b"get_task", b"task_id": b"u"},
    {b"v": b"1", b"topic": b"get_task"},
    {b"v": b"1", b"topic": b"\x00", b"task_id": b"u"},
    {b"v": b"1", b"topic": b"submit_result", b"task_id": b"../../u", b"data": b"{}", b"meta": b"{}"},
    {b"v": b"1", b"topic": b"submit_result", b"task_id": b"u", b"data": b"{}", b"meta": b"{}", b"rc": b"OK"},
    {b"x" * 5_000: b"y" * 200_000},
    {b"f%d" % number: b"" for number in range(2_000)},
]


def test_foreign_entries_are_buried_and_block_nothing(processes: LinkProcesses) -> None:
    cj, agent = processes.cj(), processes.agent()
    agent.send("serve")
    for stream in (processes.keys.tasks, processes.keys.results):
        for fields in FOREIGN:
            processes.client.xadd(stream, fields)  # type: ignore[arg-type]
            processes.client.pexpire(stream, 6_000)
    for number in range(3):
        cj.send("run", f"t{number}", number)
        assert cj.receive("result") == (f"t{number}", number)
    wait_until(lambda: processes.client.xlen(processes.keys.dead) == 2 * len(FOREIGN))
    streams = {fields[b"stream"].decode() for _, fields in processes.entries(processes.keys.dead)}
    assert streams == {processes.keys.tasks, processes.keys.results}
    processes.assert_settled({f"t{number}": "ACCEPTED" for number in range(3)})


def chunk_of(processes: LinkProcesses, owner: str) -> str:
    [key] = [key for key in processes.own_keys() if owner in key and key.endswith(":0")]
    return key


@pytest.mark.parametrize("cut", [b"short", b"x" * ((1 << 20) + 1)])
def test_a_task_whose_chunk_has_another_size_is_rejected(processes: LinkProcesses, cut: bytes) -> None:
    cj, agent = processes.cj(), processes.agent()
    cj.send("run", "t", {"w": np.arange(400_000.0)})
    processes.until("t", "NEW")
    processes.client.set(chunk_of(processes, ":blob:"), cut, px=5_000)
    agent.send("get")
    assert "bytes" in cj.receive("failed")[2]
    cj.send("run", "next", 2)
    agent.receive("task")
    agent.send("echo")
    assert cj.receive("result") == ("next", 2)


def test_a_result_whose_chunk_was_cut_is_rejected(processes: LinkProcesses) -> None:
    cj = processes.cj()
    cj.send("run", "t", 1)
    agent = processes.agent_with_task()
    pause(cj)
    agent.send("submit", np.arange(400_000.0))
    processes.until("t", "SUBMITTED")
    processes.client.set(chunk_of(processes, ":blob:"), b"short", px=5_000)
    resume(cj)
    assert "bytes" in cj.receive("failed")[2]
    assert agent.receive("submitted") == (False,)
    assert_next_works(cj, agent)


def test_a_result_whose_chunk_is_gone_is_sent_again_without_new_work(processes: LinkProcesses) -> None:
    cj = processes.cj()
    cj.send("run", "t", 1)
    agent = processes.agent_with_task()
    pause(cj)
    agent.send("submit", np.arange(400_000.0))
    processes.until("t", "SUBMITTED")
    processes.client.delete(chunk_of(processes, ":blob:"))
    resume(cj)
    task_id, data = cj.receive("result")
    np.testing.assert_array_equal(data, np.arange(400_000.0))
    assert agent.receive("submitted") == (True,)
    assert (task_id, processes.executions()) == ("t", [("t", 1)])


def test_nan_and_infinity_arrive_as_they_are(processes: LinkProcesses) -> None:
    cj, agent = processes.cj(), processes.agent()
    agent.send("serve")
    cj.send("run", "t", {"x": math.nan, "y": [math.inf, -math.inf], "w": np.array([math.nan, 1.0])})
    _, data = cj.receive("result")
    assert math.isnan(data["x"])
    assert data["y"] == [math.inf, -math.inf]
    np.testing.assert_array_equal(data["w"], [math.nan, 1.0])


def nested(depth: int) -> Any:
    tree: Any = 0
    for _ in range(depth):
        tree = [tree]
    return tree


UNSENDABLE: list[tuple[str, Any, str]] = [
    ("a lone surrogate", {"name": "\ud800"}, "name"),
    ("a lone surrogate in a key", {"\ud800": 1}, "surrogate|UTF-8|encod"),
    ("deep nesting", nested(200), "deep|nest|depth|level"),
    ("objects in an array", {"w": np.array([object()], dtype=object)[:0]}, "object"),
    ("a million keys", {str(number): 0 for number in range(1_000_001)}, "values|items|keys"),
    ("a set", {"labels": {1, 2}}, "labels"),
]


@pytest.mark.parametrize(("data", "word"), [case[1:] for case in UNSENDABLE], ids=[case[0] for case in UNSENDABLE])
def test_what_cannot_be_sent_is_refused_where_it_is_sent(processes: LinkProcesses, data: Any, word: str) -> None:
    cj, agent = processes.cj(), processes.agent()
    cj.send("run", "bad", data)
    task_id, kind, message = cj.receive("failed")
    assert (task_id, kind in ("EncodeError", "MessageTooLarge")) == ("bad", True)
    assert re.search(word, message), message
    assert processes.client.xlen(processes.keys.tasks) == 0
    cj.send("run", "t", 1)
    agent.send("get")
    agent.receive("task")
    agent.send("submit", data)
    assert re.search(word, agent.receive("refused")[0])
    agent.send("submit", "good")
    assert cj.receive("result") == ("t", "good")
