"""The roster: who takes part, who is silent, and what the communicator hears of it."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from redflare_broker.cell.request import Payload, Request
from redflare_broker.job_state.members import Member
from redflare_broker.payload.encoded_payload import EncodedPayload
from redflare_workers.protocol.job_messages import NOT_JOINED, TOLD_FENCED
from redflare_workers.server.job.clients import JobClients, Refused

from tests.support.waiting import wait_until


def entry(name: str = "a", *, instance: str = "h:1:x", epoch: int = 1, beat: float | None = 0.0, **more: Any) -> Member:
    """A client whose last beat is ``beat`` intervals old; None: it has none."""
    heartbeat_ms = -2 if beat is None else round(60_000 - beat * 1000)
    given: dict[str, Any] = {"cell": f"{name}.job", "host": "h", "pid": 1, "joined": epoch, "left": 0, "interval": 1.0}
    return Member(name=name, instance=instance, epoch=epoch, heartbeat_ms=heartbeat_ms, **{**given, **more})


def asks(name: object = "a", instance: object = "h:1:x", epoch: object = 1) -> Request:
    return Request(
        id="r",
        attempt=1,
        channel="job",
        topic="get_task",
        origin="a.job",
        meta={"client": name, "instance": instance, "epoch": epoch},
        payload=Payload(EncodedPayload(b"null"), False, None, None),  # type: ignore[arg-type]
        event=False,
        entry_id="1-0",
        replier=None,  # type: ignore[arg-type]
    )


class Bench:
    """A roster, the roll that it reads, and what it has told."""

    def __init__(self) -> None:
        self.roll: list[Member] = []
        self.reads = 0
        self.told: list[str] = []
        self.roster = JobClients(
            "job",
            self._read,
            lambda name: self.told.append(f"{name} silent"),
            lambda name, why: self.told.append(f"{name} alive"),
            lambda name: self.told.append(f"{name} heard"),
            lambda: self.told.append("change"),
        )

    def _read(self) -> list[Member]:
        self.reads += 1
        return self.roll

    def update(self, *entries: Member) -> list[str]:
        """What is told because of this roll."""
        self.told.clear()
        self.roster.update(entries)
        return list(self.told)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_who_joins_is_a_client_in_the_order_of_joining(bench: Bench) -> None:
    assert bench.update(entry("b", epoch=2), entry("a", epoch=5)) == ["change", "change"]
    assert [client.name for client in bench.roster.clients()] == ["b", "a"]
    assert bench.update(entry("b", epoch=2), entry("a", epoch=5)) == []


def test_who_has_left_is_no_client_any_more(bench: Bench) -> None:
    bench.update(entry())
    assert bench.update(entry(beat=None, left=7)) == ["change", "a silent"]
    assert bench.roster.clients() == []
    assert bench.roster.by_cell() == {}


def test_a_client_that_has_just_joined_and_not_beaten_is_not_reported_yet(bench: Bench) -> None:
    assert bench.update(entry(beat=None)) == ["change"]
    assert bench.roster.is_silent("a")
    assert bench.update(entry(beat=None)) == ["a silent"]
    assert bench.update(entry(beat=None)) == []
    assert bench.update(entry()) == ["a alive", "a heard"]


@pytest.mark.parametrize(("beat", "silent"), [(0.9, False), (2.9, False), (3.1, True), (50.0, True)])
def test_nothing_is_for_a_client_whose_beats_are_missing_but_it_is_not_reported(
    bench: Bench, beat: float, silent: bool
) -> None:
    bench.update(entry())
    assert bench.update(entry(beat=beat)) == []
    assert bench.roster.is_silent("a") is silent
    assert bench.update(entry()) == (["a heard"] if silent else [])


def test_a_request_of_a_known_client_reads_no_roll(bench: Bench) -> None:
    bench.update(entry())
    client, _ = bench.roster.client_of(asks())
    assert (client.name, bench.reads) == ("a", 0)


def test_a_request_of_an_unknown_client_reads_the_roll_once(bench: Bench) -> None:
    bench.roll = [entry(props={"gpus": 2})]
    client, peer = bench.roster.client_of(asks())
    assert (client.name, peer.get_prop("gpus"), bench.reads) == ("a", 2, 1)


def test_a_request_of_a_client_that_is_reported_is_a_sign_of_life(bench: Bench) -> None:
    bench.update(entry())
    bench.roll = [entry(beat=None)]
    bench.update(*bench.roll)
    bench.told.clear()
    bench.roster.client_of(asks())
    assert bench.told == ["a alive"]


@pytest.mark.parametrize(
    ("who", "rc"),
    [
        (("b", "h:1:x", 1), NOT_JOINED),
        ((None, None, None), NOT_JOINED),
        ((["a"], "h:1:x", 1), NOT_JOINED),
        (("a", "h:1:x", 2), NOT_JOINED),
        (("a", "h:2:y", 2), NOT_JOINED),
        (("a", "h:2:y", 0), TOLD_FENCED),
        (("a", "h:2:y", 1), TOLD_FENCED),
        (("a", None, None), TOLD_FENCED),
        (("a", "h:1:x", "1"), TOLD_FENCED),
    ],
    ids=repr,
)
def test_who_is_not_on_the_roll_is_refused(bench: Bench, who: tuple[Any, Any, Any], rc: str) -> None:
    bench.roll = [entry()]
    with pytest.raises(Refused) as refused:
        bench.roster.client_of(asks(*who))
    assert refused.value.rc == rc


def test_another_process_of_a_name_is_another_client_and_whoever_waits_is_asked_for(bench: Bench) -> None:
    bench.update(entry())
    [older] = bench.roster.clients()
    assert bench.update(entry(instance="h:2:y", epoch=2)) == ["a heard"]
    [newer] = bench.roster.clients()
    assert not bench.roster.is_current(older)
    assert bench.roster.is_current(newer)
    # a roll that was read earlier comes late
    assert bench.update(entry()) == []
    assert bench.roster.clients() == [newer]


def test_cells_hold_the_names_of_their_clients(bench: Bench) -> None:
    bench.update(entry("a", cell="host.job"), entry("b", cell="host.job"), entry("c"))
    assert bench.roster.by_cell() == {"host.job": ["a", "b"], "c.job": ["c"]}
    assert bench.roster.by_cell({"a", "c"}) == {"host.job": ["b"]}
    assert (bench.roster.cell_of("a"), bench.roster.cell_of("x")) == ("host.job", None)


def test_the_last_word_on_a_client_is_true_whatever_threads_are_in_between() -> None:
    inside, leave = threading.Event(), threading.Event()
    told: list[str] = []

    def silent(name: str) -> None:
        inside.set()
        leave.wait(10)
        told.append("silent")

    roster = JobClients("job", list, silent, lambda name, why: told.append("alive"), lambda name: None, lambda: None)
    roster.update([entry()])
    slow = threading.Thread(target=lambda: roster.update([entry(beat=None)]))
    slow.start()
    assert inside.wait(10)
    # a newer roll is dealt with while the older one is being told
    roster.update([entry()])
    assert told == []
    leave.set()
    slow.join(10)
    wait_until(lambda: told == ["silent", "alive"])
