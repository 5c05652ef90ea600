"""Dead letters: listed unchanged, replayed once and completely, dropped."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import fakeredis
import pytest
from redflare_agent import IPCAgent, TaskResult
from redflare_broker.errors import ConfigError
from redflare_broker.inspection.federation import Inspector
from redflare_broker.keys import Keys
from redflare_broker.link.dead_letters import DeadLetters
from redflare_broker.testing.plugin import LinkUnderTest
from redflare_broker.transport.connection import RedisReply
from redflare_broker.transport.server import Server
from redflare_workers import IPCExchanger

from tests.support.link.steps import LinkSteps


@pytest.fixture
def server() -> Iterator[Server]:
    with Server.connect(client=fakeredis.FakeRedis()) as server:
        yield server


@pytest.fixture
def link(server: Server) -> LinkSteps:
    return LinkSteps(server)


@pytest.fixture
def letters(server: Server, link: LinkSteps) -> DeadLetters:
    return Inspector(server).dead_letters(link.fqcn)


def entries(link: LinkSteps, stream: str) -> list[RedisReply]:
    with link.server.borrow(stream) as connection:
        found = connection.call("XRANGE", stream, "-", "+")
    assert isinstance(found, list)
    return [row[1] for row in found if isinstance(row, list)]


def test_a_dead_letter_shows_the_entry_and_the_reason(letters: DeadLetters, link: LinkSteps) -> None:
    letter_id = link.bury(link.keys.results, "no version", "task_id", "t1", "raw.x", b"\xff\x00")

    (letter,) = letters.all()

    assert letter == letters.get(letter_id)
    assert (letter.reason, letter.stream, letter.task_id) == ("no version", link.keys.results, "t1")
    assert letter.fields == ((b"task_id", b"t1"), (b"raw.x", b"\xff\x00"))
    assert not letter.truncated
    assert letter.to_json()["fields"] == [["task_id", "t1"], ["raw.x", "\\xff\x00"]]


def test_a_replayed_dead_letter_equals_the_original_entry(letters: DeadLetters, link: LinkSteps) -> None:
    letter_id = link.bury(link.keys.tasks, "foreign", "b", b"\xff\x00", "a", "1", "raw.reason", "x")

    done = letters.replay(letter_id)

    assert (done.outcome, done.stream) == ("REPLAYED", link.keys.tasks)
    assert entries(link, link.keys.tasks) == [[b"b", b"\xff\x00", b"a", b"1", b"raw.reason", b"x"]]
    assert letters.all() == []


def test_a_dead_letter_is_replayed_only_once(letters: DeadLetters, link: LinkSteps) -> None:
    letter_id = link.bury(link.keys.tasks, "foreign", "a", "1")

    outcomes = [letters.replay(letter_id).outcome for _ in range(2)]

    assert outcomes == ["REPLAYED", "GONE"]
    assert len(entries(link, link.keys.tasks)) == 1


def test_a_stream_that_a_replay_creates_expires(letters: DeadLetters, link: LinkSteps) -> None:
    letter_id = link.bury(link.keys.tasks, "foreign", "a", "1")

    letters.replay(letter_id)

    with link.server.borrow(link.keys.tasks) as connection:
        left_ms = connection.call("PTTL", link.keys.tasks)
    assert isinstance(left_ms, int)
    assert left_ms > 0


@pytest.mark.parametrize(
    "fields", [("a", "x" * 70_000), ("n" * 300, "x"), tuple("ab" * 300)], ids=["value", "name", "many"]
)
def test_a_truncated_dead_letter_is_not_replayed(
    letters: DeadLetters, link: LinkSteps, fields: tuple[str, ...]
) -> None:
    letter_id = link.bury(link.keys.tasks, "too long", *fields)

    assert letters.replay(letter_id).outcome == "TRUNCATED"
    assert [letter.truncated for letter in letters.all()] == [True]
    assert entries(link, link.keys.tasks) == []


def test_a_foreign_dead_letter_is_not_replayed(letters: DeadLetters, link: LinkSteps) -> None:
    with link.server.borrow(link.keys.dead) as connection:
        connection.call("XADD", link.keys.dead, "1-1", "stream", "another", "truncated", "0", "raw.a", "1")
        connection.call("XADD", link.keys.dead, "2-1", "hello", "world")

    assert [letters.replay(letter_id).outcome for letter_id in ("1-1", "2-1")] == ["FOREIGN", "FOREIGN"]
    assert [letter.id for letter in letters.all()] == ["1-1", "2-1"]


def test_a_dead_letter_that_does_not_say_whether_it_is_whole_counts_as_truncated(
    letters: DeadLetters, link: LinkSteps
) -> None:
    with link.server.borrow(link.keys.dead) as connection:
        connection.call("XADD", link.keys.dead, "1-1", "stream", link.keys.tasks, "raw.a", "1")

    assert [letter.truncated for letter in letters.all()] == [True]
    assert letters.replay("1-1").outcome == "TRUNCATED"


def test_dropped_dead_letters_are_deleted(letters: DeadLetters, link: LinkSteps) -> None:
    first, _, third = (link.bury(link.keys.tasks, "foreign", "a", str(number)) for number in range(3))

    assert letters.drop([first, third, "1-1"]) == 2
    assert letters.drop([]) == 0
    assert letters.drop_all() == 1
    assert letters.all() == []
    assert letters.drop_all() == 0


def test_dead_letters_of_all_links_are_found(server: Server) -> None:
    for fqcn in ("b--x", "a--x"):
        link = LinkSteps(server, fqcn)
        link.bury(link.keys.tasks, "foreign", "a", "1")

    assert [letter.fqcn for letter in Inspector(server).all_dead_letters()] == ["a--x", "b--x"]


@pytest.mark.parametrize("letter_id", ["", "*", "-", "1", "1-x"])
def test_an_id_that_is_not_legal_is_refused(letters: DeadLetters, letter_id: str) -> None:
    for step in (letters.get, letters.replay, lambda letter_id: letters.drop([letter_id])):
        with pytest.raises(ConfigError, match="dead letter id"):
            step(letter_id)


def test_a_hundred_entries_that_cannot_be_used_are_two_lines_of_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = fakeredis.FakeRedis()
    redflare_link = LinkUnderTest(client)
    keys = Keys(redflare_link.settings.namespace).link(redflare_link.fqcn)
    with IPCExchanger(**redflare_link.exchanger_args) as exchanger, IPCAgent(**redflare_link.agent_args) as agent:
        with Server.connect(client=client) as server, server.borrow(keys.results) as connection:
            for _ in range(100):
                connection.call("XADD", keys.results, "*", "hello", "world")
        answer = threading.Thread(target=lambda: agent.submit_result(TaskResult({}, next(agent.tasks()).data)))
        answer.start()
        assert exchanger.run("train", 7).data == 7
        answer.join(10)
    lines = [record.getMessage() for record in caplog.records if keys.dead in record.getMessage()]
    assert len(lines) == 2
    assert "99 more faults of the kind 'entry that cannot be used' by the agent" in lines[1]
