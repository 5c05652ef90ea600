"""The clients of a job: members, silent ones, and the calls to their listener."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from redflare_broker.job_state.members import Member
from redflare_workers.protocol.job_messages import RC_FENCED, RC_NOT_JOINED, Credentials
from redflare_workers.protocol.message import WRONG_SENDER
from redflare_workers.server.job.clients import JobClients, Refused

from tests.support.waiting import wait_until


def entry(name: str = "a", *, instance: str = "h:1:x", epoch: int = 1, beat: float | None = 0.0, **more: Any) -> Member:
    """A client whose last beat is ``beat`` intervals old; None: it has none."""
    heartbeat_ms = -2 if beat is None else round(60_000 - beat * 1000)
    given: dict[str, Any] = {"cell": f"{name}.job", "host": "h", "pid": 1, "joined": epoch, "left": 0, "interval": 1.0}
    return Member(name=name, instance=instance, epoch=epoch, heartbeat_ms=heartbeat_ms, **{**given, **more})


def asks(
    name: object = "a", instance: object = "h:1:x", epoch: object = 1, origin: str = "a.job"
) -> tuple[Credentials, str, str]:
    return Credentials.from_meta({"client": name, "instance": instance, "epoch": epoch}), "get_task", origin


class ClientsBench:
    """The clients of a job, the member list that they read, and the calls of their listener."""

    def __init__(self) -> None:
        self.members: list[Member] = []
        self.reads = 0
        self.calls: list[str] = []
        self.clients = JobClients("job", self._read, self)

    def on_silent(self, name: str) -> None:
        self.calls.append(f"{name} silent")

    def on_alive(self, name: str, sign: str) -> None:
        self.calls.append(f"{name} alive")

    def on_heard(self, name: str) -> None:
        self.calls.append(f"{name} heard")

    def on_change(self) -> None:
        self.calls.append("change")

    def _read(self) -> list[Member]:
        self.reads += 1
        return self.members

    def update(self, *entries: Member) -> list[str]:
        """Pass a member list; return the calls that it causes."""
        self.calls.clear()
        self.clients.update(entries)
        return list(self.calls)


@pytest.fixture
def bench() -> ClientsBench:
    return ClientsBench()


def test_members_are_clients_in_the_order_of_joining(bench: ClientsBench) -> None:
    assert bench.update(entry("b", epoch=2), entry("a", epoch=5)) == ["change", "change"]
    assert [client.name for client in bench.clients.clients()] == ["b", "a"]
    assert bench.update(entry("b", epoch=2), entry("a", epoch=5)) == []


def test_a_member_that_has_left_is_no_client_any_more(bench: ClientsBench) -> None:
    bench.update(entry())
    assert bench.update(entry(beat=None, left=7)) == ["change", "a silent"]
    assert bench.clients.clients() == []
    assert bench.clients.by_cell() == {}


def test_a_client_that_has_just_joined_and_not_beaten_is_not_reported_yet(bench: ClientsBench) -> None:
    assert bench.update(entry(beat=None)) == ["change"]
    assert bench.clients.is_silent("a")
    assert bench.update(entry(beat=None)) == ["a silent"]
    assert bench.update(entry(beat=None)) == []
    assert bench.update(entry()) == ["a alive", "a heard"]


@pytest.mark.parametrize(("beat", "silent"), [(0.9, False), (2.9, False), (3.1, True), (50.0, True)])
def test_nothing_is_for_a_client_whose_beats_are_missing_but_it_is_not_reported(
    bench: ClientsBench, beat: float, silent: bool
) -> None:
    bench.update(entry())
    assert bench.update(entry(beat=beat)) == []
    assert bench.clients.is_silent("a") is silent
    assert bench.update(entry()) == (["a heard"] if silent else [])


def test_a_request_of_a_known_client_reads_no_member_list(bench: ClientsBench) -> None:
    bench.update(entry())
    client, _ = bench.clients.client_of(*asks())
    assert (client.name, bench.reads) == ("a", 0)


def test_a_request_of_an_unknown_client_reads_the_member_list_once(bench: ClientsBench) -> None:
    bench.members = [entry(props={"gpus": 2})]
    client, peer = bench.clients.client_of(*asks())
    assert (client.name, peer.get_prop("gpus"), bench.reads) == ("a", 2, 1)


def test_a_request_of_a_client_that_is_reported_is_a_sign_of_life(bench: ClientsBench) -> None:
    bench.update(entry())
    bench.members = [entry(beat=None)]
    bench.update(*bench.members)
    bench.calls.clear()
    bench.clients.client_of(*asks())
    assert bench.calls == ["a alive"]


@pytest.mark.parametrize(
    ("who", "rc"),
    [
        (("b", "h:1:x", 1), RC_NOT_JOINED),
        ((None, None, None), RC_NOT_JOINED),
        ((["a"], "h:1:x", 1), RC_NOT_JOINED),
        (("a", "h:1:x", 2), RC_NOT_JOINED),
        (("a", "h:2:y", 2), RC_NOT_JOINED),
        (("a", "h:2:y", 0), RC_FENCED),
        (("a", "h:2:y", 1), RC_FENCED),
        (("a", None, None), RC_FENCED),
        (("a", "h:1:x", "1"), RC_FENCED),
    ],
    ids=repr,
)
def test_a_request_of_no_member_is_refused(bench: ClientsBench, who: tuple[Any, Any, Any], rc: str) -> None:
    bench.members = [entry()]
    with pytest.raises(Refused) as refused:
        bench.clients.client_of(*asks(*who))
    assert refused.value.rc == rc


def test_a_request_with_the_credentials_of_another_cells_client_is_refused(bench: ClientsBench) -> None:
    bench.members = [entry()]
    with pytest.raises(Refused, match=r"client 'a' is served by cell a\.job, not by b\.job") as refused:
        bench.clients.client_of(*asks(origin="b.job"))
    assert refused.value.rc == WRONG_SENDER


def test_another_process_of_a_name_is_another_client_and_waiting_requests_are_checked(bench: ClientsBench) -> None:
    bench.update(entry())
    [older] = bench.clients.clients()
    assert bench.update(entry(instance="h:2:y", epoch=2)) == ["a heard"]
    [newer] = bench.clients.clients()
    assert not bench.clients.is_current(older)
    assert bench.clients.is_current(newer)
    # an older list is applied late
    assert bench.update(entry()) == []
    assert bench.clients.clients() == [newer]


def test_cells_hold_the_names_of_their_clients(bench: ClientsBench) -> None:
    bench.update(entry("a", cell="host.job"), entry("b", cell="host.job"), entry("c"))
    assert bench.clients.by_cell() == {"host.job": ["a", "b"], "c.job": ["c"]}
    assert bench.clients.by_cell({"a", "c"}) == {"host.job": ["b"]}
    assert (bench.clients.cell_of("a"), bench.clients.cell_of("x")) == ("host.job", None)


def test_the_processes_of_clients_are_named_once(bench: ClientsBench) -> None:
    bench.update(entry("a", instance="h:1:x"), entry("b", instance="h:1:x"), entry("c", instance="g:2:y"))
    assert bench.clients.instances(["a", "b"]) == ["h:1:x"]
    assert bench.clients.instances(["c", "a"]) == ["g:2:y", "h:1:x"]


def test_the_last_report_on_a_client_is_true_whatever_threads_interleave() -> None:
    inside, leave = threading.Event(), threading.Event()

    class Slow(ClientsBench):
        def on_silent(self, name: str) -> None:
            inside.set()
            leave.wait(10)
            super().on_silent(name)

    bench = Slow()
    clients = bench.clients

    def reports() -> list[str]:
        return [call for call in bench.calls if call in ("a silent", "a alive")]

    clients.update([entry()])
    slow = threading.Thread(target=lambda: clients.update([entry(beat=None)]))
    slow.start()
    assert inside.wait(10)
    # a newer list is applied while the older one is being reported
    clients.update([entry()])
    assert reports() == []
    leave.set()
    slow.join(10)
    wait_until(lambda: reports() == ["a silent", "a alive"])
