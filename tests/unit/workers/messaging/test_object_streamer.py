"""Object streams: order, end, flow control, and what is refused."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from redflare_broker.cell.request import Reply
from redflare_workers.apis.fl_constant import ReturnCode
from redflare_workers.apis.shareable import ReservedHeaderKey, Shareable, make_reply
from redflare_workers.apis.streaming import StreamProgress
from redflare_workers.messaging import ObjectStreamer, stream_session
from redflare_workers.protocol.shareable_codec import from_message, to_message

from tests.support.cell.messengers import Peer, Peers, peers_on_fakeredis
from tests.support.cell.streams import Numbers, Sink
from tests.support.waiting import wait_until

BIG = np.arange(1000.0)
OVER = ["get", ("finalize", "OK"), ("done", "OK", {"a": 1}), "return"]


@pytest.fixture
def peers() -> Iterator[Peers]:
    with peers_on_fakeredis() as made:
        yield made
    wait_until(lambda: not [t for t in threading.enumerate() if t.name.startswith("redflare-streams")])


def receive(peer: Peer, sink: Sink | None = None, channel: str = "c", topic: str = "t") -> Sink:
    sink = sink or Sink()
    peer.register_stream_processing(channel, topic, sink, stream_done_cb=sink.done, a=1)
    return sink


def stream(peer: Peer, producer: Any, targets: Any = "server", **more: Any) -> tuple[str, Any]:
    more.setdefault("stream_ctx", {"name": "x"})
    return peer.stream_objects("c", "t", more.pop("stream_ctx"), targets, producer, peer.new_context(), **more)


# -- the way of a stream -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [1, 4, 100])
def test_objects_arrive_once_and_in_order_and_nothing_is_left(peers: Peers, window: int) -> None:
    sink, site = receive(peers.make("server")), peers.make("site")
    producer = Numbers(range(50), window=window)
    assert stream(site, producer) == (ReturnCode.OK, None)
    assert sink.values == list(range(50))
    assert producer.codes() == [ReturnCode.OK] * 50
    wait_until(lambda: sink.calls == OVER)
    assert set(sink.peers) == {"site"}
    wait_until(lambda: not peers.blobs())


def test_a_stream_in_the_name_of_another_peer_reaches_no_consumer(peers: Peers) -> None:
    server, site = peers.make("server"), peers.make("site-2")
    sink = receive(server)
    peers.places["site-2"] = "site-1.job-1"
    assert stream(site, Numbers(range(3)))[0] == ReturnCode.ERROR
    assert sink.values == []
    assert server.cell.faults.totals == {"unreadable object of a stream": 1}


def test_large_objects_are_streamed_to_many(peers: Peers) -> None:
    sinks = [receive(peers.make(f"site-{number}")) for number in range(3)]
    producer = Numbers([{"w": BIG + number} for number in range(10)], window=3)
    names = ["site-0", "site-1", "site-2"]
    assert stream(peers.make("server"), producer, names) == (ReturnCode.OK, None)
    assert [list(replies) for replies in producer.replies] == [names] * 10
    for sink in sinks:
        np.testing.assert_equal(sink.values, [{"w": BIG + number} for number in range(10)])
    wait_until(lambda: not peers.blobs())


def test_the_context_goes_to_the_consumer(peers: Peers) -> None:
    sink, site = receive(peers.make("server")), peers.make("site")
    context = {"name": "x", "__RC__": "OK", "__end_stream__": print}
    stream(site, Numbers([1]), stream_ctx=context)
    assert context["__channel__"] == "c"
    wait_until(lambda: "return" in sink.calls)
    got = sink.contexts[0]
    assert {key: got[key] for key in ("name", "__channel__", "__topic__", "__RC__")} == {
        "name": "x",
        "__channel__": "c",
        "__topic__": "t",
        "__RC__": "OK",
    }


def test_a_consumer_may_end_the_stream_and_its_callback_answers(peers: Peers) -> None:
    sink = receive(peers.make("server"), Sink(lambda value: (value < 2, None)))
    producer = Numbers(range(3))
    assert stream(peers.make("site"), producer) == (ReturnCode.OK, None)
    assert sink.calls == OVER
    last = producer.replies[-1]["server"]
    assert last.get_header(ObjectStreamer.END_RESULT) == "the end result"


@pytest.mark.parametrize(
    ("result", "rc"), [("x", ReturnCode.OK), (False, ReturnCode.ERROR), ({}, ReturnCode.ERROR), (0, ReturnCode.ERROR)]
)
def test_a_result_of_the_producer_ends_the_stream(peers: Peers, result: Any, rc: str) -> None:
    class Ends(Numbers):
        def process_replies(self, *args: Any) -> Any:
            super().process_replies(*args)
            return result if len(self.replies) == 2 else None

    sink = receive(peers.make("server"))
    assert stream(peers.make("site"), Ends(range(9))) == (rc, result)
    assert sink.values == [0, 1]
    wait_until(lambda: "return" in sink.calls)
    assert sink.calls[1] == ("finalize", rc if rc == ReturnCode.OK else ReturnCode.TASK_ABORTED)


def test_topic_handlers_are_preferred_to_channel_handlers_and_those_to_default_ones(peers: Peers) -> None:
    server, site = peers.make("server"), peers.make("site")
    exact, channel, rest = receive(server), receive(server, topic="*"), receive(server, channel="*", topic="*")
    for where in (("c", "t"), ("c", "other"), ("other", "t")):
        site.stream_objects(*where, {}, "server", Numbers([where]), site.new_context())
    assert (exact.values, channel.values, rest.values) == ([("c", "t")], [("c", "other")], [("other", "t")])


def test_many_streams_at_once_have_consumers_of_their_own(peers: Peers) -> None:
    server = peers.make("server")
    sink = receive(server)
    sites = [peers.make(f"site-{number}") for number in range(4)]
    results: list[Any] = []
    threads = [
        threading.Thread(target=lambda site=site: results.append(stream(site, Numbers(range(20), window=2))))
        for site in sites
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results == [(ReturnCode.OK, None)] * 12
    assert sorted(sink.values) == sorted(list(range(20)) * 12)
    wait_until(lambda: sink.calls.count("return") == 12)


def test_progress_is_reported_after_each_object(peers: Peers) -> None:
    receive(peers.make("server"))
    progress: list[StreamProgress] = []
    stream(peers.make("site"), Numbers([b"12345"] * 4, window=2), progress_cb=progress.append)
    assert [(each.objects, each.nbytes) for each in progress] == [(1, 5), (2, 10), (3, 15), (4, 20)]


def test_consumed_cb_is_called_after_each_object(peers: Peers) -> None:
    server, seen = peers.make("server"), []
    server.register_stream_processing(
        "c", "t", Sink(), consumed_cb=lambda result, ctx, fl_ctx, **more: seen.append((result[0], more)), a=1
    )
    stream(peers.make("site"), Numbers(range(2)))
    assert seen == [(True, {"a": 1})] * 2


# -- back pressure and time --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [1, 3])
def test_a_slow_consumer_holds_the_sender_back(peers: Peers, window: int) -> None:
    go = threading.Semaphore(0)
    sink = receive(peers.make("server"), Sink(lambda value: go.acquire(timeout=20)))
    producer = Numbers(({"w": BIG} for _ in range(12)), window=window)
    sending = threading.Thread(target=lambda: stream(peers.make("site"), producer))
    sending.start()
    for number in range(12):
        most = 1 if number == 0 else window
        wait_until(lambda: producer.made >= min(number + most, 12))  # noqa: B023
        assert producer.made <= min(number + most, 12)
        assert len({key for key in peers.blobs() if key.endswith(":0")}) <= most + 1
        go.release()
        wait_until(lambda: len(sink.values) == number + 1)  # noqa: B023
    sending.join(10)
    wait_until(lambda: not peers.blobs())


def test_the_timeout_counts_from_the_last_answer(peers: Peers) -> None:
    go = threading.Event()
    sink = receive(peers.make("server"), Sink(lambda value: go.wait(0.2)))
    # each object of the window waits for those before it, in total longer than its timeout
    producer = Numbers(range(10), window=8, timeout=0.7)
    assert stream(peers.make("site"), producer) == (ReturnCode.OK, None)
    assert len(sink.values) == 10


def test_an_object_that_is_not_answered_in_time_is_a_timeout_and_the_rest_is_reported(peers: Peers) -> None:
    go = threading.Event()
    sink = receive(peers.make("server"), Sink(lambda value: go.wait(20)))
    producer = Numbers(range(5), timeout=0.3)
    assert stream(peers.make("site"), producer) == (ReturnCode.ERROR, False)
    assert producer.codes() == [ReturnCode.TIMEOUT]
    assert "within 0.3 s" in producer.replies[0]["server"].get_header(ReservedHeaderKey.ERROR)
    go.set()
    wait_until(lambda: "return" in sink.calls)
    assert sink.values == [0]
    assert sink.calls[1][0] == "finalize"


def test_an_abort_of_the_run_ends_a_stream_at_both_sides(peers: Peers) -> None:
    go = threading.Event()
    sink, site = receive(peers.make("server"), Sink(lambda value: value and go.wait(20))), peers.make("site")
    results: list[Any] = []
    sending = threading.Thread(target=lambda: results.append(stream(site, Numbers(range(100), timeout=60.0, window=3))))
    sending.start()
    # the next one may be in its hands already
    wait_until(lambda: sink.values[:1] == [0])
    site.abort_signal.trigger("enough")
    sending.join(20)
    go.set()
    assert results == [(ReturnCode.TASK_ABORTED, None)]
    wait_until(lambda: "return" in sink.calls)
    assert ("finalize", ReturnCode.TASK_ABORTED) in sink.calls
    assert len(sink.values) <= 2


def test_an_abort_of_the_receivers_run_ends_the_stream(peers: Peers) -> None:
    server = peers.make("server")
    sink = receive(server, Sink(lambda value: value == 2 and server.abort_signal.trigger("enough")))  # type: ignore[func-returns-value]
    producer = Numbers(range(9))
    assert stream(peers.make("site"), producer) == (ReturnCode.ERROR, False)
    assert producer.codes() == ["OK", "OK", "TASK_ABORTED"]
    assert ("finalize", "TASK_ABORTED") in sink.calls


@pytest.mark.parametrize("side", ["site", "server"])
def test_a_shutdown_ends_all_streams(peers: Peers, side: str) -> None:
    both = {name: peers.make(name) for name in ("site", "server")}
    reached, go = threading.Event(), threading.Event()

    def hold(value: int) -> None:
        if value == 3:
            reached.set()
            go.wait(20)

    sink = receive(both["server"], Sink(hold))
    producer, results = Numbers(range(1000), timeout=20.0), []
    sending = threading.Thread(target=lambda: results.append(stream(both["site"], producer)))
    sending.start()
    assert reached.wait(10)
    both[side].shutdown_streamer()
    go.set()
    sending.join(10)
    assert results[0][0] != ReturnCode.OK
    wait_until(lambda: "return" in sink.calls)
    assert ("finalize", ReturnCode.TASK_ABORTED) in sink.calls
    assert stream(both["site"], Numbers([1]))[0] != ReturnCode.OK


def test_a_stream_whose_sender_dies_is_ended(peers: Peers) -> None:
    server = peers.make("server")
    sink, site = receive(server), peers.make("site")
    raw(site, 0)
    site.cell.stop()
    wait_until(lambda: "return" in sink.calls, 10)
    assert sink.calls[1] == ("finalize", ReturnCode.COMMUNICATION_ERROR)


def test_a_consumer_may_end_its_stream_from_any_thread(peers: Peers) -> None:
    sink, site = receive(peers.make("server")), peers.make("site")
    raw(site, 0)
    sink.contexts[0]["__end_stream__"]("ENOUGH", site.new_context())
    wait_until(lambda: sink.calls == ["get", ("finalize", "ENOUGH"), ("done", "ENOUGH", {"a": 1}), "return"])
    sink.contexts[0]["__end_stream__"]("AGAIN", site.new_context())
    assert raw(site, 1) == ReturnCode.BAD_REQUEST_DATA
    assert len(sink.calls) == 4


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_an_exception_of_a_consumer_ends_the_stream(peers: Peers) -> None:
    sink = receive(peers.make("server"), Sink(lambda value: 1 // (2 - value)))
    producer = Numbers(range(9), window=3)
    assert stream(peers.make("site"), producer) == (ReturnCode.ERROR, False)
    assert producer.codes()[-1] == ReturnCode.EXECUTION_EXCEPTION
    assert "ZeroDivisionError" in producer.replies[-1]["server"].get_header(ReservedHeaderKey.ERROR)
    rc = ReturnCode.EXECUTION_EXCEPTION
    assert sink.calls == ["get", ("finalize", rc), ("done", rc, {"a": 1}), "return"]


def test_a_consumer_that_calls_exit_ends_the_stream_and_is_finalized(peers: Peers) -> None:
    sink = receive(peers.make("server"), Sink(sys.exit))
    producer = Numbers(range(9))
    assert stream(peers.make("site"), producer) == (ReturnCode.ERROR, False)
    assert producer.codes() == [ReturnCode.EXECUTION_EXCEPTION]
    assert sink.calls[1] == ("finalize", ReturnCode.EXECUTION_EXCEPTION)


@pytest.mark.parametrize("made", ["raises", "no consumer"])
def test_a_factory_that_fails_ends_the_stream(peers: Peers, made: str) -> None:
    class Bad(Sink):
        def get_consumer(self, *args: Any) -> Any:
            return 1 / 0 if made == "raises" else None

    sink = receive(peers.make("server"), Bad())
    producer = Numbers(range(9))
    assert stream(peers.make("site"), producer) == (ReturnCode.ERROR, False)
    assert producer.codes() == [ReturnCode.EXECUTION_EXCEPTION]
    assert sink.calls == []


def test_an_error_at_the_end_does_not_keep_the_other_steps_from_happening(peers: Peers) -> None:
    class Bad(Sink):
        def done(self, *args: Any, **more: Any) -> Any:
            super().done(*args, **more)
            raise RuntimeError("done")

        def return_consumer(self, *args: Any) -> None:
            super().return_consumer(*args)
            raise RuntimeError("return")

    sink = receive(peers.make("server"), Bad())
    assert stream(peers.make("site"), Numbers([1])) == (ReturnCode.OK, None)
    wait_until(lambda: sink.calls == OVER)


def test_a_stream_without_a_consumer_is_refused(peers: Peers) -> None:
    peers.make("server")
    producer = Numbers(range(9))
    assert stream(peers.make("site"), producer) == (ReturnCode.ERROR, False)
    assert producer.codes() == [ReturnCode.EXECUTION_EXCEPTION]


def test_an_exception_of_a_producer_is_raised_and_ends_the_consumer(peers: Peers) -> None:
    def values() -> Iterator[int]:
        yield 1
        raise RuntimeError("no more")

    sink = receive(peers.make("server"))
    with pytest.raises(RuntimeError, match="no more"):
        stream(peers.make("site"), Numbers(values()))
    wait_until(lambda: ("finalize", ReturnCode.TASK_ABORTED) in sink.calls)


@pytest.mark.parametrize(
    ("made", "error", "text"),
    [
        (({}, 1.0), TypeError, "must produce a Shareable, but made a dict"),
        ((Shareable(), 1), TypeError, "timeout as a float, but gave a int"),
        ((Shareable(), 0.0), ValueError, "timeout > 0 seconds, but gave 0.0"),
        ((Shareable({"x": object()}), 1.0), ValueError, "x"),
    ],
)
def test_a_producer_of_odd_objects_is_refused(peers: Peers, made: Any, error: type[Exception], text: str) -> None:
    class Bad(Numbers):
        def produce(self, *args: Any) -> Any:
            return made

    receive(peers.make("server"))
    with pytest.raises(error, match=text):
        stream(peers.make("site"), Bad([]))


def test_wrong_arguments_are_refused(peers: Peers) -> None:
    server, site = peers.make("server"), peers.make("site")
    ctx = site.new_context()
    for channel, topic, context, targets, producer, error in [
        (1, "t", {}, "server", Numbers([]), TypeError),
        ("c", "", {}, "server", Numbers([]), ValueError),
        ("c", "t", [1], "server", Numbers([]), TypeError),
        ("c", "t", {}, "nobody", Numbers([]), ValueError),
        ("c", "t", {}, [3], Numbers([]), TypeError),
        ("c", "t", {}, "server", object(), TypeError),
    ]:
        with pytest.raises(error):
            site.stream_objects(channel, topic, context, targets, producer, ctx)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="must be a ConsumerFactory"):
        server.register_stream_processing("c", "t", object())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="stream_done_cb must be callable, but got int"):
        server.register_stream_processing("c", "t", Sink(), stream_done_cb=3)  # type: ignore[arg-type]

    async def done(*_: object, **__: object) -> None: ...

    with pytest.raises(TypeError, match="stream_done_cb is an async function"):
        server.register_stream_processing("c", "t", Sink(), stream_done_cb=done)


# -- objects that are not due ------------------------------------------------------------------------------------------


def raw(peer: Peer, seq: Any, stream_id: str = "s", **more: Any) -> str:
    """Send an object without a streamer; return the code of the reply."""
    content = Shareable({"value": seq})
    content.set_header("ObjectStreamer.CTX", {"name": "x"})
    content.set_peer_props({"__identity_name__": peer.identity})
    carried, data = to_message(content)
    meta = {"to": "server", "stream_id": stream_id, "seq": seq, "message": carried}
    meta |= {"channel": "c", "topic": "t", "window": 4, **more}
    reply: Reply = peer.cell.send_request("stream", "object", "server.job-1", meta, data, timeout=5)
    assert reply.ok
    code = from_message(reply.meta["message"], reply.data).get_return_code()
    assert isinstance(code, str)
    return code


@pytest.mark.parametrize(
    ("seqs", "values"),
    [
        ([0, 0], [0]),
        ([0, 1, 1], [0, 1]),
        ([0, 1, 0], [0, 1]),
        ([0, 5], [0]),
        ([0, 9, 1], [0]),
        ([1], []),
    ],
    ids=["the first twice", "one twice", "an old one", "beyond the window", "far beyond", "no first one"],
)
def test_an_object_that_is_not_due_is_refused_and_ends_the_stream(
    peers: Peers, seqs: list[int], values: list[int]
) -> None:
    sink, site = receive(peers.make("server")), peers.make("site")
    codes = [raw(site, seq) for seq in seqs]
    assert codes == [ReturnCode.OK] * len(values) + [ReturnCode.BAD_REQUEST_DATA] * (len(seqs) - len(values))
    assert sink.values == values
    if values:
        wait_until(lambda: "return" in sink.calls)
        assert sink.calls[1] == ("finalize", ReturnCode.BAD_REQUEST_DATA)
        assert raw(site, len(values)) == ReturnCode.BAD_REQUEST_DATA
    # and the next stream is served
    assert stream(site, Numbers([7])) == (ReturnCode.OK, None)
    assert sink.values == [*values, 7]


def test_an_object_after_a_refused_one_is_refused_before_the_sender_gets_the_first_reply(
    peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink, site = receive(peers.make("server")), peers.make("site")
    refuse = stream_session._refuse
    behind: list[str] = []

    def refuse_late(*args: Any) -> None:
        monkeypatch.setattr(stream_session, "_refuse", refuse)
        behind.append(raw(site, 1))
        refuse(*args)

    monkeypatch.setattr(stream_session, "_refuse", refuse_late)
    assert [raw(site, 0), raw(site, 9)] == [ReturnCode.OK, ReturnCode.BAD_REQUEST_DATA]
    assert behind == [ReturnCode.BAD_REQUEST_DATA]
    assert sink.values == [0]


def test_a_first_object_that_is_sent_again_while_it_is_consumed_does_not_block(peers: Peers) -> None:
    reached, go = threading.Event(), threading.Event()

    def hold(value: Any) -> None:
        reached.set()
        go.wait(20)

    sink, site = receive(peers.make("server"), Sink(hold)), peers.make("site")
    first = threading.Thread(target=lambda: raw(site, 0))
    first.start()
    assert reached.wait(10)
    assert raw(site, 0) == ReturnCode.BAD_REQUEST_DATA
    assert sink.calls == ["get"]
    go.set()
    first.join(10)
    wait_until(lambda: sink.calls[1:2] == [("finalize", ReturnCode.BAD_REQUEST_DATA)])


def test_objects_of_the_window_may_overtake_each_other(peers: Peers) -> None:
    sink, site = receive(peers.make("server")), peers.make("site")
    raw(site, 0)
    late = [threading.Thread(target=raw, args=(site, seq)) for seq in (3, 2)]
    for thread in late:
        thread.start()
    wait_until(lambda: "2 in hand" in repr(peers._made[0].cell))
    assert sink.values == [0]
    raw(site, 1)
    for thread in late:
        thread.join(10)
    assert sink.values == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "meta",
    [
        {"stream_id": 3},
        {"stream_id": ""},
        {"seq": -1},
        {"seq": "0"},
        {"seq": True},
        {"channel": None},
        {"topic": 3},
        {"window": 0},
        {"window": "4"},
    ],
    ids=repr,
)
def test_an_object_without_its_stream_is_bad_request_data(peers: Peers, meta: dict[str, Any]) -> None:
    receive(peers.make("server"))
    site = peers.make("site")
    seq = meta.pop("seq", 0)
    assert raw(site, seq, **{"stream_id": "s", **meta}) == ReturnCode.BAD_REQUEST_DATA


def test_a_reply_that_cannot_be_sent_is_an_answer(peers: Peers) -> None:
    def odd(value: Any) -> Any:
        reply = make_reply(ReturnCode.OK)
        reply["x"] = object()
        return True, reply

    receive(peers.make("server"), Sink(odd))
    producer = Numbers([1, 2])
    assert stream(peers.make("site"), producer) == (ReturnCode.ERROR, False)
    assert producer.codes() == [ReturnCode.EXECUTION_RESULT_ERROR]
