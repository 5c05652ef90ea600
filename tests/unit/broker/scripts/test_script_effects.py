"""Effects of scripts besides their replies: dead letters, wake-ups, keys; and the headers of their files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import fakeredis
import pytest
import redflare_broker
from redflare_broker.config.retention import RetentionPolicy
from redflare_broker.keys import Keys
from redflare_broker.scripts import cell_scripts, job_scripts, link_scripts, store_scripts
from redflare_broker.scripts.script import Script
from redflare_broker.transport.connection import Connection
from redflare_broker.transport.server import ConnectionOptions, Server

from tests.support.link.bench import LinkBench, script_steps


@pytest.fixture
def connection(options: ConnectionOptions) -> Iterator[Connection]:
    client = fakeredis.FakeRedis(server=fakeredis.FakeServer())
    with Server.connect(client=client, options=options) as server, server.borrow("any") as connection:
        yield connection


# -- dead letters ------------------------------------------------------------------------------------------------------


def test_an_entry_is_buried_once_with_its_stream_and_the_reason(connection: Connection) -> None:
    bench = LinkBench(connection)
    entry = bench.connection.call("XADD", bench.keys.results, "*", "a", b"\xff\x00", "b", "2")
    assert isinstance(entry, bytes)
    assert bench.bury(bench.cj, bench.keys.results, entry.decode()).status == "BURIED"
    assert bench.bury(bench.cj, bench.keys.results, entry.decode()).status == "GONE"
    ((_, letter),) = bench.entries(bench.keys.dead)
    assert letter.pop(b"time").isdigit()
    assert letter == {
        b"reason": b"why",
        b"stream": bench.keys.results.encode(),
        b"entry": entry,
        b"truncated": b"0",
        b"raw.a": b"\xff\x00",
        b"raw.b": b"2",
    }


@pytest.mark.parametrize(
    ("fields", "cut"),
    [
        (["a", "x" * 10], b"0"),
        (["a", "x" * 11], b"1"),
        (["n" * 201, "x"], b"1"),
        (["a", "x"] * 256, b"0"),
        (["a", "x"] * 257, b"1"),
    ],
)
def test_a_truncated_dead_letter_is_marked(connection: Connection, fields: list[str], cut: bytes) -> None:
    bench = LinkBench(connection, policy=RetentionPolicy(dead_value_bytes=10))
    entry = connection.call("XADD", bench.keys.results, "*", *fields)
    assert isinstance(entry, bytes)
    bench.bury(None, bench.keys.results, entry.decode())
    ((_, letter),) = bench.entries(bench.keys.dead)
    assert letter[b"truncated"] == cut
    assert max(len(value) for name, value in letter.items() if name.startswith(b"raw.")) <= 10


def test_the_oldest_dead_letters_are_deleted_first(connection: Connection) -> None:
    bench = LinkBench(connection, policy=RetentionPolicy(dead_entries=3))
    for number in range(5):
        entry = connection.call("XADD", bench.keys.tasks, "*", "number", number)
        assert isinstance(entry, bytes)
        bench.bury(None, bench.keys.tasks, entry.decode())
    assert [fields[b"raw.number"] for _, fields in bench.entries(bench.keys.dead)] == [b"2", b"3", b"4"]


# -- messages and keys -------------------------------------------------------------------------------------------------


def test_a_step_publishes_its_message_once() -> None:
    client = fakeredis.FakeRedis(server=fakeredis.FakeServer())
    with Server.connect(client=client) as server, server.borrow("any") as connection, client.pubsub() as pubsub:  # type: ignore[no-untyped-call]
        bench = LinkBench(connection)
        pubsub.subscribe(bench.keys.abort, bench.keys.notice)
        for step, expected in script_steps(bench):
            step()
            published = []
            while message := pubsub.get_message():
                if message["type"] == "message":
                    published.append(
                        (message["channel"].decode(), re.sub(r"\d{13}", "<epoch>", message["data"].decode()))
                    )
            assert published == expected


def test_every_key_that_a_script_touches_is_given_to_it(server_url: str, namespace: str) -> None:
    """A server may refuse a script that touches others."""
    with Server.connect(server_url) as server, server.borrow("any") as connection, server.borrow("any") as spy:
        spy.call("MONITOR")
        bench = LinkBench(connection, namespace)
        for step, _ in script_steps(bench):
            step()
        bench.scripts.register(connection, Keys(namespace).agents)
        connection.call("PING", namespace)
        given: list[str] = []
        touched = 0
        while True:
            words = _monitored(spy.receive())
            if words[1:] == ["PING", namespace]:
                break
            if words[1].upper() in ("EVAL", "EVALSHA"):
                given = words[4 : 4 + int(words[3])]
            elif words[0] == "lua" and words[1] not in ("TIME",):
                touched += 1
                assert words[2] in given, f"{words[1:3]} with {given}"
        assert touched > 100
        spy.close()
        keys = connection.call("KEYS", f"{namespace}:*")
        assert isinstance(keys, list)
        for key in keys:
            assert isinstance(key, bytes)
            assert 0 < bench.ttl_ms(key) <= bench.scripts.policy.retention_ms
            connection.call("DEL", key)


def _monitored(line: object) -> list[str]:
    """Parse a line of MONITOR: the source of a command ("lua" or an address), and its words."""
    assert isinstance(line, bytes)
    head, _, words = line.decode("utf-8", "replace").partition("] ")
    return [head.rpartition(" ")[2], *re.findall(r'"((?:[^"\\]|\\.)*)"', words)]


# -- the files ---------------------------------------------------------------------------------------------------------

LUA = Path(redflare_broker.__file__).parent / "scripts" / "lua"
SOURCES = {file.relative_to(LUA).as_posix(): file.read_text("utf-8") for file in LUA.rglob("*.lua")}
SCRIPTS = sorted(name for name in SOURCES if not Path(name).name.startswith("_"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_short_and_has_a_header(name: str) -> None:
    source = SOURCES[name]
    assert len(source.splitlines()) <= 45
    head = source[: source.index("\nlocal ")] if "\nlocal " in source else source
    for title in ("KEYS:", "ARGV:", "Returns:", "Why atomic:", "Why safe to run twice:"):
        assert f"-- {title}" in head, f"{name} does not say {title}"


DECLARED = {
    f"{script.name}.lua": script
    for module in (cell_scripts, job_scripts, link_scripts, store_scripts)
    for script in vars(module).values()
    if isinstance(script, Script)
}


def test_every_script_is_declared_once() -> None:
    assert sorted(DECLARED) == SCRIPTS


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_header_of_a_script_lists_its_keys_and_arguments_as_they_are_declared(name: str) -> None:
    declared = DECLARED[name]
    optional = [declared.optional_key] if declared.optional_key else []
    rest = [f"{declared.rest} ..."] if declared.rest else []
    more = [f"{declared.more_keys} ..."] if declared.more_keys else []
    assert named(SOURCES[name], "KEYS", "ARGV") == [*declared.keys, *optional, *more]
    assert named(SOURCES[name], "ARGV", "Returns") == [*declared.args, *rest]


def named(source: str, title: str, following: str) -> list[str]:
    """The names that the header of a script lists under a title, without explanations in parentheses."""
    listed = source[source.index(f"-- {title}:") + len(title) + 4 : source.index(f"-- {following}:")]
    names = re.split(r"[,\[\]]+", re.sub(r"\([^)]*\)", "", listed.replace("\n--", " ")))
    return [" ".join(name.split()) for name in names if name.strip()]


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_uses_its_keys_and_arguments_by_their_names_alone(name: str) -> None:
    body = "\n".join(line for line in SOURCES[name].splitlines() if not line.startswith("--"))
    declared = DECLARED[name]
    # further keys have numbers only
    further = r"\bKEYS\[index\]|#KEYS\b" if declared.more_keys else "$^"
    assert not re.search(r"\bKEYS\b|\bARGV\[\d", re.sub(further, "", body))
    assert [arg for arg in declared.args if not re.search(rf"\b{arg}\b", body)] == []
    beyond = {name for name in (declared.more_keys, declared.rest) if name}
    assert set(re.findall(r"\b(\w+)_from\b", body)) == beyond


#: Scripts that any cell may run on another's inbox: they return ids and numbers, as they refuse nothing.
WITHOUT_WORDS = {"cell/post.lua", "cell/reply.lua", "cell/still_posted.lua"}


@pytest.mark.parametrize("name", sorted({*SCRIPTS} - WITHOUT_WORDS))
def test_the_header_of_a_script_names_every_status_it_returns(name: str) -> None:
    head, code = SOURCES[name].split("\n\n", 1) if "\n\n" in SOURCES[name] else (SOURCES[name], SOURCES[name])
    words = set(re.findall(r"return \{'([A-Z]+)'", head + code))
    returns = SOURCES[name][SOURCES[name].index("-- Returns:") : SOURCES[name].index("-- Why atomic:")]
    assert words
    assert {word for word in words if word not in returns} == set()
