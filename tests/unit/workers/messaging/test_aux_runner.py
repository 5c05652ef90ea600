"""Aux messages: their handlers, their replies, and what is refused."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from redflare_broker.errors import EncodeError
from redflare_workers.apis.dxo import DXO, DataKind, from_shareable
from redflare_workers.apis.fl_constant import ReturnCode
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.shareable import ReservedHeaderKey, Shareable, make_reply

from tests.support.cell.messengers import Peer, Peers, peers_on_fakeredis
from tests.support.waiting import wait_until

BIG = np.arange(1000.0)


@pytest.fixture
def peers() -> Iterator[Peers]:
    with peers_on_fakeredis() as made:
        yield made


def echo(topic: str, request: Shareable, fl_ctx: FLContext) -> Shareable:
    reply = make_reply(ReturnCode.OK)
    reply["content"] = request.get("content")
    return reply


def message(**content: Any) -> Shareable:
    return Shareable(content)


def send(peer: Peer, targets: Any = "server", topic: str = "t", content: Any = "hello", timeout: float = 5.0) -> Any:
    return peer.send_aux_request(targets, topic, message(content=content), timeout, peer.new_context())


async def echo_later(topic: str, request: Shareable, fl_ctx: FLContext) -> Shareable:
    return request


# -- registering -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("topic", "handler", "error", "text"),
    [
        (7, echo, TypeError, "topic must be a str, but got int"),
        ("", echo, ValueError, "topic must not be empty"),
        ("t", None, ValueError, "handler of topic 't' is missing"),
        ("t", 3, TypeError, "handler of topic 't' must be callable, but got int"),
        ("t", echo_later, TypeError, "handler of topic 't' is an async function"),
    ],
)
def test_a_handler_that_cannot_be_is_refused(
    peers: Peers, topic: Any, handler: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        peers.make("server").register_aux_message_handler(topic, handler)


def test_a_second_handler_of_a_topic_is_refused(peers: Peers) -> None:
    server = peers.make("server")
    server.register_aux_message_handler("t", echo)
    with pytest.raises(ValueError, match="topic 't' has a handler already"):
        server.register_aux_message_handler("t", echo)


# -- dispatching -------------------------------------------------------------------------------------------------------


def test_a_message_that_is_not_a_shareable_is_bad_request_data(peers: Peers) -> None:
    server = peers.make("server")
    reply = server.dispatch("t", {}, server.new_context())  # type: ignore[arg-type]
    assert reply.get_return_code() == ReturnCode.BAD_REQUEST_DATA


def test_a_topic_without_handler_is_unknown(peers: Peers) -> None:
    server = peers.make("server")
    assert server.dispatch("t", Shareable(), server.new_context()).get_return_code() == ReturnCode.TOPIC_UNKNOWN


@pytest.mark.parametrize(
    ("props", "rc"),
    [
        (None, ReturnCode.MISSING_PEER_CONTEXT),
        ({}, ReturnCode.MISSING_PEER_CONTEXT),
        ("site", ReturnCode.BAD_PEER_CONTEXT),
    ],
)
def test_a_message_must_have_the_props_of_its_sender(peers: Peers, props: Any, rc: str) -> None:
    server = peers.make("server")
    server.register_aux_message_handler("t", echo)
    request = Shareable()
    request.set_peer_props(props)
    assert server.dispatch("t", request, server.new_context()).get_return_code() == rc


def test_an_exception_of_a_handler_is_an_answer(peers: Peers, caplog: pytest.LogCaptureFixture) -> None:
    server, site = peers.make("server"), peers.make("site")
    server.register_aux_message_handler("t", lambda topic, request, fl_ctx: 1 / 0)  # type: ignore[arg-type,return-value]
    assert send(site)["server"].get_return_code() == ReturnCode.HANDLER_EXCEPTION
    assert "ZeroDivisionError" in caplog.text


def test_a_handler_that_calls_exit_has_failed(peers: Peers) -> None:
    server, site = peers.make("server"), peers.make("site")
    server.register_aux_message_handler("t", lambda topic, request, fl_ctx: sys.exit(1))
    assert send(site)["server"].get_return_code() == ReturnCode.HANDLER_EXCEPTION


def test_a_handler_that_returns_no_shareable_is_an_error(peers: Peers) -> None:
    server, site = peers.make("server"), peers.make("site")
    server.register_aux_message_handler("t", lambda topic, request, fl_ctx: None)  # type: ignore[arg-type,return-value]
    assert send(site)["server"].get_return_code() == ReturnCode.ERROR


@pytest.mark.parametrize("fails", [False, True])
def test_the_cookie_jar_is_returned(peers: Peers, fails: bool) -> None:
    server, site = peers.make("server"), peers.make("site")
    if not fails:
        server.register_aux_message_handler("t", echo)
    request = message(content=1)
    request.add_cookie("round", 3)
    reply = site.send_aux_request("server", "t", request, 5.0, site.new_context())["server"]
    assert reply.get_cookie("round") == 3


def test_a_handler_sees_topic_request_and_peer(peers: Peers) -> None:
    server, site = peers.make("server"), peers.make("site")
    seen: list[Any] = []

    def record(topic: str, request: Shareable, fl_ctx: FLContext) -> Shareable:
        peer = fl_ctx.get_peer_context()
        assert peer is not None
        names = peer.get_identity_name(), peer.get_job_id(), fl_ctx.get_identity_name()
        seen.append((topic, request["content"], *names))
        seen.append(request.get_header(ReservedHeaderKey.TOPIC))
        return make_reply(ReturnCode.OK)

    server.register_aux_message_handler("any words, really!", record)
    send(site, topic="any words, really!")
    assert seen == [("any words, really!", "hello", "site", "job-1", "server"), "any words, really!"]


# -- sending -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tree", [None, 7, {"a": [1, 2]}, b"bytes", {"w": BIG}], ids=["none", "int", "tree", "b", "w"])
def test_content_travels_both_ways_and_leaves_nothing_behind(peers: Peers, tree: Any) -> None:
    server, site = peers.make("server"), peers.make("site")
    server.register_aux_message_handler("t", echo)
    np.testing.assert_equal(send(site, content=tree)["server"]["content"], tree)
    wait_until(lambda: not peers.blobs())


def test_a_dxo_travels_too(peers: Peers) -> None:
    server, site = peers.make("server"), peers.make("site")
    server.register_aux_message_handler("t", lambda topic, request, fl_ctx: request)
    sent = DXO(DataKind.WEIGHTS, {"w": BIG}, {"steps": 3}).to_shareable()
    got = from_shareable(site.send_aux_request("server", "t", sent, 5.0, site.new_context())["server"])
    np.testing.assert_equal(got.data["w"], BIG)
    assert got.meta["steps"] == 3


def test_many_are_asked_at_once_and_answer_by_name(peers: Peers) -> None:
    names = [f"site-{number}" for number in range(5)]
    for name in names:
        peers.make(name).register_aux_message_handler("t", echo)
    replies = send(peers.make("server"), names, content={"w": BIG})
    assert list(replies) == names
    for reply in replies.values():
        np.testing.assert_equal(reply["content"]["w"], BIG)
    wait_until(lambda: not peers.blobs())


def test_a_request_is_not_changed_by_being_sent(peers: Peers) -> None:
    server, site = peers.make("server"), peers.make("site")
    server.register_aux_message_handler("t", echo)
    request = message(content=1)
    site.send_aux_request("server", "t", request, 5.0, site.new_context())
    assert request == message(content=1)


def test_without_targets_a_site_asks_its_server(peers: Peers) -> None:
    server, site = peers.make("server"), peers.make("site")
    server.register_aux_message_handler("t", echo)
    assert list(send(site, None)) == ["server"]
    assert list(send(site, [])) == ["server"]


def test_a_peer_that_does_not_reply_in_time_is_a_timeout_and_the_others_count(peers: Peers) -> None:
    go = threading.Event()

    def hang(topic: str, request: Shareable, fl_ctx: FLContext) -> Shareable:
        go.wait(10)
        return make_reply(ReturnCode.OK)

    peers.make("a").register_aux_message_handler("t", echo)
    peers.make("b").register_aux_message_handler("t", hang)
    replies = send(peers.make("server"), ["b", "a"], timeout=0.5)
    go.set()
    assert {name: reply.get_return_code() for name, reply in replies.items()} == {
        "b": ReturnCode.TIMEOUT,
        "a": ReturnCode.OK,
    }


def test_a_message_in_the_name_of_another_peer_reaches_no_handler(peers: Peers) -> None:
    server, site = peers.make("server"), peers.make("site-2")
    server.register_aux_message_handler("t", echo)
    assert send(site)["server"]["content"] == "hello"
    # the name of the sender's context is now that of a peer in another cell
    peers.places["site-2"] = "site-1.job-1"
    assert send(site)["server"].get_return_code() == ReturnCode.BAD_PEER_CONTEXT
    assert server.cell.faults.totals == {"refused aux message": 1}


def test_an_unknown_name_is_answered_at_once(peers: Peers, caplog: pytest.LogCaptureFixture) -> None:
    reply = send(peers.make("site"), ["who"], timeout=100)["who"]
    assert reply.get_return_code() == ReturnCode.COMMUNICATION_ERROR
    assert "no peer is named 'who'" in reply.get_header(ReservedHeaderKey.ERROR)
    assert "'who'" in caplog.text


def test_an_optional_message_fails_quietly(peers: Peers, caplog: pytest.LogCaptureFixture) -> None:
    site = peers.make("site")
    with caplog.at_level(logging.INFO):
        site.send_aux_request("who", "t", Shareable(), 1.0, site.new_context(), optional=True)
    assert "who" not in caplog.text


def test_an_abort_of_the_run_ends_the_wait(peers: Peers) -> None:
    answered = threading.Event()

    def answer(topic: str, request: Shareable, fl_ctx: FLContext) -> Shareable:
        answered.set()
        return make_reply(ReturnCode.OK)

    peers.make("server").register_aux_message_handler("t", answer)
    site = peers.make("site")
    peers.places["silent"] = "silent.job-1"
    replies: list[Any] = []
    asking = threading.Thread(target=lambda: replies.append(send(site, ["server", "silent"], timeout=60)))
    asking.start()
    wait_until(lambda: answered.is_set() and "1 waiting" in repr(site.cell))
    site.abort_signal.trigger("enough")
    asking.join(5)
    codes = {name: reply.get_return_code() for name, reply in replies[0].items()}
    assert codes == {"server": ReturnCode.OK, "silent": ReturnCode.TASK_ABORTED}


@pytest.mark.parametrize("how", ["timeout 0", "fire and forget"])
def test_a_message_that_is_fired_and_forgotten_arrives_without_a_reply(peers: Peers, how: str) -> None:
    server, site = peers.make("server"), peers.make("site")
    seen: list[str] = []

    def note(topic: str, request: Shareable, fl_ctx: FLContext) -> Shareable:
        seen.append(request["content"])
        return make_reply(ReturnCode.OK)

    server.register_aux_message_handler("t", note)
    if how == "timeout 0":
        assert send(site, timeout=0) == {}
    else:
        assert site.fire_and_forget_aux_request("t", message(content="hello"), site.new_context()) == {}
    wait_until(lambda: seen == ["hello"])


@pytest.mark.parametrize(
    ("targets", "topic", "request_", "timeout", "error"),
    [
        ([3], "t", Shareable(), 1.0, TypeError),
        ("server", 3, Shareable(), 1.0, TypeError),
        ("server", "", Shareable(), 1.0, ValueError),
        ("server", "t", {}, 1.0, TypeError),
        ("server", "t", Shareable(), "1", TypeError),
        ("server", "t", Shareable(), -1, ValueError),
    ],
)
def test_wrong_arguments_are_refused(
    peers: Peers, targets: Any, topic: Any, request_: Any, timeout: Any, error: type[Exception]
) -> None:
    site = peers.make("site")
    with pytest.raises(error):
        site.send_aux_request(targets, topic, request_, timeout, site.new_context())


def test_a_value_that_cannot_be_sent_is_an_error_with_its_place(peers: Peers) -> None:
    peers.make("server")
    with pytest.raises(EncodeError, match="content"):
        send(peers.make("site"), content=object())


def test_a_cell_that_was_stopped_is_an_answer(peers: Peers) -> None:
    peers.make("server")
    site = peers.make("site")
    site.cell.stop()
    assert send(site)["server"].get_return_code() == ReturnCode.COMMUNICATION_ERROR
    assert send(site, timeout=0) == {}
    site.messenger.close()
    assert send(site)["server"].get_return_code() == ReturnCode.COMMUNICATION_ERROR


def test_a_peer_that_does_not_listen_at_its_cell_is_not_available(peers: Peers) -> None:
    server, site = peers.make("server"), peers.make("site")
    server.messenger.close()
    assert send(site)["server"].get_return_code() == ReturnCode.SERVICE_UNAVAILABLE


# -- before the run ----------------------------------------------------------------------------------------------------


def test_early_messages_of_one_sender_have_a_bound_and_all_of_them_are_handled(peers: Peers) -> None:
    seen: list[int] = []

    def note(topic: str, request: Shareable, fl_ctx: FLContext) -> Shareable:
        seen.append(request["content"])
        return make_reply(ReturnCode.OK)

    server = peers.make("server", prepare=lambda peer: peer.register_aux_message_handler("t", note), listen=False)
    site = peers.make("site")
    for number in range(1100):
        send(site, content=number, timeout=0.0)
    wait_until(lambda: "1000 in hand" in repr(server.cell), 60)
    send(peers.make("site-2"), content=-1, timeout=0.0)
    wait_until(lambda: "1001 in hand" in repr(server.cell), 60)
    server.messenger.listen()
    wait_until(lambda: len(seen) == 1101, 60)
    assert sorted(seen) == list(range(-1, 1100))
