"""The streams of ``ClientEngine``, sentence by sentence, over a real server."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest
from redflare_workers import ClientEngine, FLContext, ReturnCode, Shareable, make_reply
from redflare_workers.apis.streaming import StreamContext

from tests.fundamentals.documented.sentences import documented
from tests.fundamentals.programs import Background
from tests.support.cell.messengers import Peer
from tests.support.cell.streams import Numbers, Sink
from tests.support.federation.client_parents import SITE_1
from tests.support.waiting import SOON, wait_until


def send(engine: ClientEngine, producer: Numbers, topic: str = "t", **more: Any) -> tuple[str, Any]:
    """Stream from the site to the server."""
    with engine.new_context() as fl_ctx:
        return engine.stream_objects("c", topic, more.pop("stream_ctx", {}), [], producer, fl_ctx, **more)


def receive(server: Peer, producer: Numbers, topic: str = "t", stream_ctx: StreamContext | None = None) -> str:
    """Stream from the server to the site."""
    with server.new_context() as fl_ctx:
        return server.stream_objects("c", topic, stream_ctx or {}, [SITE_1], producer, fl_ctx)[0]


# -- stream_objects ----------------------------------------------------------------------------------------------------


@documented("ClientEngine.stream_objects")
def test_a_stream_of_objects_arrives_in_order(served: ClientEngine, server: Peer) -> None:
    sink = Sink()
    server.register_stream_processing("c", "t", sink)
    send(served, Numbers(range(5)))
    assert sink.values == [0, 1, 2, 3, 4]


@documented("ClientEngine.stream_objects")
def test_channel_and_topic_choose_who_takes_the_stream(served: ClientEngine, server: Peer) -> None:
    here, there = Sink(), Sink()
    server.register_stream_processing("c", "t", here)
    server.register_stream_processing("c", "other", there)
    send(served, Numbers(range(2)))
    assert (here.values, there.values) == ([0, 1], [])


@documented("ClientEngine.stream_objects")
def test_the_context_of_a_stream_reaches_its_receiver(served: ClientEngine, server: Peer) -> None:
    sink = Sink()
    server.register_stream_processing("c", "t", sink)
    send(served, Numbers(range(1)), stream_ctx={"name": "model.bin"})
    assert sink.contexts[0]["name"] == "model.bin"


@documented("ClientEngine.stream_objects", differs="Targets of a stream of a client parent")
def test_the_targets_are_the_receiving_sites(served: ClientEngine) -> None:
    with served.new_context() as fl_ctx, pytest.raises(ValueError, match="reaches the server 'server' only"):
        served.stream_objects("c", "t", {}, ["site-2"], Numbers(range(1)), fl_ctx)


@documented("ClientEngine.stream_objects")
def test_the_producer_makes_the_objects_until_it_has_none(served: ClientEngine, server: Peer) -> None:
    server.register_stream_processing("c", "t", Sink())
    producer = Numbers(range(3))
    assert send(served, producer) == (ReturnCode.OK, None)
    assert producer.made == 3


@documented("ClientEngine.stream_objects")
def test_an_object_is_waited_for_no_longer_than_the_timeout_that_comes_with_it(
    served: ClientEngine, server: Peer
) -> None:
    answered = threading.Event()
    server.register_stream_processing("c", "t", Sink(lambda value: answered.wait(SOON) and None))
    producer = Numbers(range(1), timeout=0.2)
    rc, _ = send(served, producer)
    answered.set()
    assert (rc, producer.codes()) == (ReturnCode.ERROR, [ReturnCode.TIMEOUT])


@documented("ClientEngine.stream_objects")
def test_the_replies_to_an_object_are_processed_by_the_name_of_their_sender(served: ClientEngine, server: Peer) -> None:
    server.register_stream_processing("c", "t", Sink())
    producer = Numbers(range(2))
    send(served, producer)
    assert [list(replies) for replies in producer.replies] == [["server"], ["server"]]


@documented("ClientEngine.stream_objects")
def test_a_stream_goes_on_while_the_processing_of_replies_returns_none_and_ends_with_what_else_it_returns(
    served: ClientEngine, server: Peer
) -> None:
    class Until(Numbers):
        def process_replies(self, replies: Any, stream_ctx: StreamContext, fl_ctx: FLContext) -> Any:
            return "enough" if self.made == 3 else None

    sink = Sink()
    server.register_stream_processing("c", "t", sink)
    assert send(served, Until(range(100))) == (ReturnCode.OK, "enough")
    assert sink.values == [0, 1, 2]


@documented("ClientEngine.stream_objects")
def test_the_abort_signal_of_the_context_ends_a_stream(served: ClientEngine, server: Peer) -> None:
    def stop(value: int) -> None:
        if value == 1:
            served.abort_signal.trigger("enough")

    server.register_stream_processing("c", "t", Sink(stop))
    with served.new_context() as fl_ctx:
        assert fl_ctx.get_run_abort_signal() is served.abort_signal
        assert served.stream_objects("c", "t", {}, [], Numbers(range(9)), fl_ctx) == (ReturnCode.TASK_ABORTED, None)


@documented("ClientEngine.stream_objects")
def test_the_failure_of_an_optional_stream_is_no_warning(
    served: ClientEngine, server: Peer, caplog: pytest.LogCaptureFixture
) -> None:
    server.cell.stop()
    for optional in (True, False):
        assert not [each for each in caplog.records if each.levelno >= logging.WARNING]
        send(served, Numbers(range(1), timeout=0.1), optional=optional)
    assert [each for each in caplog.records if each.levelno >= logging.WARNING]


@documented("ClientEngine.stream_objects", differs="`secure` of tasks, messages and streams")
def test_a_stream_may_be_sent_in_a_secure_way(served: ClientEngine, server: Peer) -> None:
    sink = Sink()
    server.register_stream_processing("c", "t", sink)
    send(served, Numbers(range(1)), secure=True)
    assert sink.values == [0]


# -- register_stream_processing ----------------------------------------------------------------------------------------


@documented("ClientEngine.register_stream_processing")
def test_the_factory_of_a_channel_and_topic_makes_the_consumer_of_a_stream(served: ClientEngine, server: Peer) -> None:
    sink = Sink()
    served.register_stream_processing("c", "t", sink)
    assert receive(server, Numbers(range(3))) == ReturnCode.OK
    assert (sink.values, sink.calls[0]) == ([0, 1, 2], "get")


@documented("ClientEngine.register_stream_processing")
def test_the_factory_is_asked_for_the_first_object_of_a_stream_only(served: ClientEngine, server: Peer) -> None:
    sink = Sink()
    served.register_stream_processing("c", "t", sink)
    receive(server, Numbers(range(3)))
    assert sink.calls.count("get") == 1


@documented("ClientEngine.register_stream_processing")
def test_each_of_several_streams_at_once_has_a_consumer_of_its_own(
    served: ClientEngine, server: Peer, background: Background
) -> None:
    together = threading.Barrier(2)
    sink = Sink(lambda value: together.wait(SOON) and None)
    served.register_stream_processing("c", "t", sink)
    streams = [background(receive, server, Numbers(range(2))) for _ in range(2)]
    assert [stream.result(SOON) for stream in streams] == [ReturnCode.OK] * 2
    assert sink.calls.count("get") == 2


@documented("ClientEngine.register_stream_processing")
def test_a_consumer_says_whether_to_continue_and_what_to_reply(served: ClientEngine, server: Peer) -> None:
    sink = Sink(lambda value: (value < 1, make_reply(ReturnCode.OK, {"seen": value})))
    served.register_stream_processing("c", "t", sink)

    class Asking(Numbers):
        def process_replies(self, replies: Any, stream_ctx: StreamContext, fl_ctx: FLContext) -> Any:
            self.replies.append(replies)
            return None

    producer = Asking(range(2))
    receive(server, producer)
    assert [each[SITE_1].get_header("seen") for each in producer.replies] == [0, 1]
    wait_until(lambda: sink.calls[-1:] == ["return"])
    assert sink.values == [0, 1]


@documented("ClientEngine.register_stream_processing")
def test_the_channel_and_topic_that_a_consumer_sees_are_those_of_the_application(
    served: ClientEngine, server: Peer
) -> None:
    sink = Sink()
    served.register_stream_processing("c", "t", sink)
    receive(server, Numbers(range(1)))
    assert (sink.contexts[0]["__channel__"], sink.contexts[0]["__topic__"]) == ("c", "t")


@documented("ClientEngine.register_stream_processing")
@pytest.mark.parametrize("fails", [False, True], ids=["when it was complete", "when its consumer has failed"])
def test_a_consumer_is_finalized_at_the_end_of_its_stream(served: ClientEngine, server: Peer, fails: bool) -> None:
    sink = Sink(lambda value: 1 / 0 if fails else None)
    served.register_stream_processing("c", "t", sink)
    receive(server, Numbers(range(2)))
    wait_until(lambda: "return" in sink.calls)
    assert [each[0] for each in sink.calls if each[0] == "finalize"] == ["finalize"]


@documented("ClientEngine.register_stream_processing")
def test_a_consumer_is_given_back_to_its_factory_when_its_stream_is_over(served: ClientEngine, server: Peer) -> None:
    sink = Sink()
    served.register_stream_processing("c", "t", sink)
    receive(server, Numbers(range(2)))
    wait_until(lambda: sink.calls == ["get", ("finalize", ReturnCode.OK), "return"])


@documented("ClientEngine.register_stream_processing")
def test_stream_done_is_called_at_the_receiver_with_the_arguments_that_were_registered(
    served: ClientEngine, server: Peer
) -> None:
    sink = Sink()
    served.register_stream_processing("c", "t", sink, stream_done_cb=sink.done, colour="red")
    receive(server, Numbers(range(2)))
    wait_until(lambda: ("done", ReturnCode.OK, {"colour": "red"}) in sink.calls)


@documented("ClientEngine.register_stream_processing")
def test_consumed_is_called_after_each_object(served: ClientEngine, server: Peer) -> None:
    sink, seen = Sink(), list[Any]()

    def consumed(result: tuple[bool, Shareable], stream_ctx: StreamContext, fl_ctx: FLContext, **more: Any) -> None:
        seen.append((sink.values[-1], result[0]))

    served.register_stream_processing("c", "t", sink, consumed_cb=consumed)
    receive(server, Numbers(range(2)))
    assert seen == [(0, True), (1, True)]


@documented("ClientEngine.register_stream_processing")
def test_a_factory_of_another_type_is_a_type_error(engine: ClientEngine) -> None:
    with pytest.raises(TypeError, match="factory must be a ConsumerFactory"):
        engine.register_stream_processing("c", "t", object())  # type: ignore[arg-type]


@documented("ClientEngine.shutdown_streamer")
def test_no_stream_begins_after_the_streamer_was_shut_down(served: ClientEngine, server: Peer) -> None:
    sink = Sink()
    server.register_stream_processing("c", "t", sink)
    served.shutdown_streamer()
    assert send(served, Numbers(range(2))) == (ReturnCode.TASK_ABORTED, None)
    assert sink.values == []
