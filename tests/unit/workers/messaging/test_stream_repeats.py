"""Object streams whose receiver is started again in the middle: its new process gets every object from the first."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from redflare_broker.payload.encoded_payload import encode_payload
from redflare_workers.apis.fl_constant import ReturnCode
from redflare_workers.apis.shareable import ReservedHeaderKey, make_reply
from redflare_workers.messaging import ObjectStreamer, stream_receiver
from redflare_workers.messaging.kept_objects import KeptObjects, StreamObject

from tests.support.cell.messengers import Peer, Peers, peers_on_fakeredis
from tests.support.cell.streams import Numbers, Sink
from tests.support.waiting import wait_until

BIG = np.arange(1000.0)


@pytest.fixture
def peers() -> Iterator[Peers]:
    with peers_on_fakeredis() as made:
        yield made
    wait_until(lambda: not [t for t in threading.enumerate() if t.name.startswith("redflare-streams")])


class Held(Sink):
    """Takes the objects before one, and holds that until ``go``: its process is killed with it in its hand."""

    def __init__(self, at: Any, go: threading.Event) -> None:
        super().__init__(self._hold)
        self.reached = threading.Event()
        self._at = at
        self._go = go

    def _hold(self, value: Any) -> None:
        if value == self._at:
            self.reached.set()
            self._go.wait(30)


class Sending:
    """A stream that is sent in a thread."""

    def __init__(self, peer: Peer, producer: Numbers, targets: list[str]) -> None:
        self._results: list[Any] = []
        self._thread = threading.Thread(
            target=lambda: self._results.append(
                peer.stream_objects("c", "t", {"name": "x"}, targets, producer, peer.new_context())
            )
        )
        self._thread.start()

    def result(self) -> tuple[str, Any]:
        self._thread.join(30)
        [result] = self._results
        return result  # type: ignore[no-any-return]


def started(peers: Peers, name: str, sink: Sink, *, listen: bool = True) -> Peer:
    """Start a process that receives, in place of an earlier one of that name."""
    return peers.make(
        name, prepare=lambda peer: peer.register_stream_processing("c", "t", sink, sink.done), listen=listen
    )


@contextmanager
def restarted_at(
    peers: Peers, at: Any, producer: Numbers, successor: Sink, targets: tuple[str, ...] = ("server",)
) -> Iterator[Sending]:
    """Replace the process of the first target when it has an object in its hand."""
    go = threading.Event()
    held = Held(at, go)
    started(peers, targets[0], held)
    sending = Sending(peers.make("sender"), producer, list(targets))
    assert held.reached.wait(10)
    started(peers, targets[0], successor)
    try:
        yield sending
    finally:
        go.set()


@pytest.mark.parametrize("window", [1, 4])
@pytest.mark.parametrize("at", [0, 1, 7, 19])
def test_the_new_process_gets_every_object_once_and_from_the_first(peers: Peers, window: int, at: int) -> None:
    successor, producer = Sink(), Numbers(range(20), window=window)
    with restarted_at(peers, at, producer, successor) as sending:
        assert sending.result() == (ReturnCode.OK, None)
    assert successor.values == list(range(20))
    assert successor.contexts[0]["name"] == "x"
    assert producer.codes() == [ReturnCode.OK] * 20
    wait_until(lambda: successor.calls == ["get", ("finalize", "OK"), ("done", "OK", {}), "return"])


def test_the_other_targets_get_every_object_once(peers: Peers) -> None:
    successor, other = Sink(), Sink()
    started(peers, "site-2", other)
    producer = Numbers(range(20), window=3)
    with restarted_at(peers, 9, producer, successor, ("site-1", "site-2")) as sending:
        assert sending.result() == (ReturnCode.OK, None)
    assert (successor.values, other.values) == (list(range(20)), list(range(20)))
    assert other.calls.count("get") == 1
    assert [list(replies) for replies in producer.replies] == [["site-1", "site-2"]] * 20


def test_it_gets_what_was_sent_although_the_producer_has_changed_it(peers: Peers) -> None:
    array = np.zeros(20_000)

    def values() -> Iterator[dict[str, Any]]:
        for number in range(6):
            array[:] = number
            yield {"number": number, "w": array}

    go, reached, seen = threading.Event(), threading.Event(), []

    def take(value: dict[str, Any]) -> None:
        if value["number"] == 4:
            reached.set()
            go.wait(30)

    started(peers, "server", Sink(take))
    sending = Sending(peers.make("site"), Numbers(values()), ["server"])
    assert reached.wait(10)
    started(peers, "server", Sink(lambda value: seen.append((value["number"], set(value["w"])))))
    assert sending.result() == (ReturnCode.OK, None)
    go.set()
    assert seen == [(number, {float(number)}) for number in range(6)]
    wait_until(lambda: not peers.blobs())


def test_a_process_that_is_started_again_twice_gets_everything_all_the_same(peers: Peers) -> None:
    go = threading.Event()
    between, successor = Held(3, go), Sink()
    with restarted_at(peers, 9, Numbers(range(12), window=4), between) as sending:
        assert between.reached.wait(10)
        started(peers, "server", successor)
        assert sending.result() == (ReturnCode.OK, None)
    go.set()
    assert successor.values == list(range(12))


def test_a_process_that_takes_longer_to_begin_than_an_object_may_take_is_waited_for(peers: Peers) -> None:
    go = threading.Event()
    held, successor = Held(5, go), Sink()
    started(peers, "server", held)
    sending = Sending(peers.make("site"), Numbers(range(9), timeout=0.3), ["server"])
    assert held.reached.wait(10)
    new = started(peers, "server", successor, listen=False)
    # longer than the timeout and a heartbeat, which shows it to be alive
    assert not threading.Event().wait(1.0)
    new.messenger.listen()
    assert sending.result() == (ReturnCode.OK, None)
    go.set()
    assert successor.values == list(range(9))


def test_the_result_of_the_end_is_that_of_the_new_process(peers: Peers) -> None:
    successor, producer = Sink(lambda value: (value < 4, None)), Numbers(range(5))
    with restarted_at(peers, 4, producer, successor) as sending:
        assert sending.result() == (ReturnCode.OK, None)
    assert producer.replies[-1]["server"].get_header(ObjectStreamer.END_RESULT) == "the end result"


def test_a_failure_of_the_new_process_is_the_reply_to_the_object_that_is_due(peers: Peers) -> None:
    successor, producer = Sink(lambda value: 1 // (2 - value)), Numbers(range(9), window=2)
    with restarted_at(peers, 6, producer, successor) as sending:
        assert sending.result() == (ReturnCode.ERROR, False)
    assert producer.codes() == [ReturnCode.OK] * 6 + [ReturnCode.EXECUTION_EXCEPTION]
    assert successor.values == [0, 1]


def test_objects_that_its_consumer_refuses_and_passes_over_do_not_end_the_stream(peers: Peers) -> None:
    class Stubborn(Numbers):
        def process_replies(self, *args: Any) -> Any:
            super().process_replies(*args)

    def take(value: int) -> tuple[bool, Any]:
        return True, make_reply(ReturnCode.BAD_TASK_DATA if value == 2 else ReturnCode.OK)

    successor, producer = Sink(take), Stubborn(range(9))
    with restarted_at(peers, 6, producer, successor) as sending:
        assert sending.result() == (ReturnCode.OK, None)
    assert successor.values == list(range(9))
    assert producer.codes() == [ReturnCode.OK] * 9


def test_a_process_without_a_consumer_for_it_ends_the_stream(peers: Peers) -> None:
    go = threading.Event()
    held, producer = Held(5, go), Numbers(range(9), window=3)
    started(peers, "server", held)
    sending = Sending(peers.make("site"), producer, ["server"])
    assert held.reached.wait(10)
    peers.make("server")
    assert sending.result() == (ReturnCode.ERROR, False)
    go.set()
    assert "has no consumer" in producer.replies[-1]["server"].get_header(ReservedHeaderKey.ERROR)


def test_an_abort_ends_a_stream_that_is_being_sent_again(peers: Peers) -> None:
    go, again = threading.Event(), threading.Event()
    held, successor = Held(5, go), Held(3, again)
    started(peers, "server", held)
    site = peers.make("site")
    sending = Sending(site, Numbers(range(9), timeout=60.0), ["server"])
    assert held.reached.wait(10)
    started(peers, "server", successor)
    assert successor.reached.wait(10)
    site.abort_signal.trigger("enough")
    assert sending.result() == (ReturnCode.TASK_ABORTED, None)
    go.set()
    again.set()
    wait_until(lambda: ("finalize", ReturnCode.TASK_ABORTED) in successor.calls)


# -- what cannot be sent again -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keep_bytes", "text"),
    [
        (20_000, "more than 20.0 kB, the keep_bytes of their producer; stream them again with a new producer"),
        (0, "its sender must send all objects again"),
    ],
)
def test_a_stream_that_is_not_kept_ends_and_says_why(peers: Peers, keep_bytes: int, text: str) -> None:
    successor, producer = Sink(), Numbers([*range(5), {"w": BIG}, {"w": BIG}, {"w": BIG}, "last"])
    producer.keep_bytes = keep_bytes
    with restarted_at(peers, "last", producer, successor) as sending:
        assert sending.result() == (ReturnCode.ERROR, False)
    assert successor.values == []
    assert producer.codes() == [ReturnCode.OK] * 8 + [ReturnCode.BAD_REQUEST_DATA]
    assert text in producer.replies[-1]["server"].get_header(ReservedHeaderKey.ERROR)


@pytest.mark.parametrize("bound", [-1, 1.5, True, None, "1 GB"])
def test_an_odd_bound_is_refused(peers: Peers, bound: Any) -> None:
    started(peers, "server", sink := Sink())
    site, producer = peers.make("site"), Numbers([1])
    producer.keep_bytes = bound
    with pytest.raises(ValueError, match="keep_bytes of Numbers must be an int >= 0"):
        site.stream_objects("c", "t", {}, "server", producer, site.new_context())
    assert sink.values == []


def test_a_process_that_has_forgotten_the_end_of_a_stream_is_not_sent_it_again(
    peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_receiver, "_REMEMBERED", 0)
    started(peers, "server", sink := Sink(lambda value: (value < 2, None)))
    site, producer = peers.make("site"), Numbers(range(9))
    assert site.stream_objects("c", "t", {}, "server", producer, site.new_context()) == (ReturnCode.ERROR, False)
    assert sink.values == [0, 1, 2]


# -- what is kept ------------------------------------------------------------------------------------------------------


def made(number: int, data: Any) -> StreamObject:
    carried = {"headers": {"number": number, "pair": (1, 2)}}
    return StreamObject(number=number, carried=carried, payload=encode_payload(data), timeout=1.5)


@pytest.mark.parametrize("size", [10, 3 << 20], ids=["in memory", "in a file"])
def test_objects_are_read_as_they_were_kept_any_number_of_times(size: int) -> None:
    kept = KeptObjects(1 << 30, "s")
    data = [{"w": np.full(size, number, "u1"), "text": "a\nb"} for number in range(4)]
    for number, each in enumerate(data):
        kept.add(made(number, each))
        assert len(list(kept)) == number + 1
    for _ in range(2):
        read = list(kept)
        assert [(each.number, each.timeout, each.carried) for each in read] == [
            (number, 1.5, {"headers": {"number": number, "pair": (1, 2)}}) for number in range(4)
        ]
        np.testing.assert_equal([each.payload.decode() for each in read], data)
    kept.close()
    assert list(kept) == []


def test_a_stream_over_its_bound_is_not_kept_at_all() -> None:
    kept = KeptObjects(10_000, "s")
    for number in range(4):
        kept.add(made(number, {"w": bytes(4000)}))
    assert "more than 10.0 kB" in kept.missing
    assert list(kept) == []


def test_a_full_disk_ends_the_keeping_and_not_the_stream(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    kept = KeptObjects(1 << 30, "s")
    for number in range(4):
        kept.add(made(number, {"w": bytes(3 << 20)}))
    assert "could not be written" in kept.missing
    assert list(kept) == []
