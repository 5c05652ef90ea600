"""``ClientEngine``, sentence by sentence, over a real server: contexts, components and messages."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from nvflare.private.fed.client.client_engine import ClientEngine as NVFlareClientEngine
from redflare_workers import ClientEngine, FLComponent, FLContext, ReturnCode, Shareable, Site, SiteArgs, make_reply
from redflare_workers.apis.fl_constant import FLContextKey, ProcessType, ReservedKey
from redflare_workers.apis.streaming import StreamableEngine

from tests.fundamentals.documented.sentences import documented
from tests.support.cell.cells import Cells
from tests.support.cell.messengers import Peer
from tests.support.federation.client_parents import SITE_1
from tests.support.waiting import SOON, wait_until


class Hearing(FLComponent):
    """Notes what it hears."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str] = []

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        self.heard.append(event_type)


def greet(topic: str, request: Shareable, fl_ctx: FLContext) -> Shareable:
    """Answer with what is known of the message."""
    peer = fl_ctx.get_peer_context()
    assert peer is not None
    reply = make_reply(ReturnCode.OK)
    reply["greeting"] = f"{topic}: {request.get('word')}, {peer.get_identity_name()}"
    return reply


def words_heard(server: Peer) -> list[str]:
    """The words of the messages that the server will get on "greet"."""
    words: list[str] = []

    def handle(topic: str, request: Shareable, fl_ctx: FLContext) -> Shareable:
        words.append(request["word"])
        return make_reply(ReturnCode.OK)

    server.register_aux_message_handler("greet", handle)
    return words


# -- constructor and contexts ------------------------------------------------------------------------------------------


@documented("ClientEngine.__init__")
def test_the_engine_runs_in_the_client_parent_s_process(engine: ClientEngine) -> None:
    with engine.new_context() as fl_ctx:
        assert fl_ctx.get_prop(ReservedKey.PROCESS_TYPE) == ProcessType.CLIENT_PARENT


@documented("ClientEngine.__init__", "ClientEngine.get_client_name")
def test_the_client_has_the_name_of_the_site(tmp_path: Path) -> None:
    engine = ClientEngine(SimpleNamespace(client_name="site-9"), SiteArgs(workspace=tmp_path), 0)
    assert (engine.client_name, engine.get_client_name()) == ("site-9", "site-9")


@documented("ClientEngine.__init__")
def test_the_components_of_the_client_are_those_of_the_engine_and_hear_its_events(tmp_path: Path) -> None:
    hearing = Hearing()
    engine = ClientEngine(Site(name=SITE_1, components={"hearing": hearing}), SiteArgs(workspace=tmp_path), 0)
    assert engine.get_component("hearing") is hearing
    with engine.new_context() as fl_ctx:
        engine.fire_event("news", fl_ctx)
    assert hearing.heard == ["news"]


@documented("ClientEngine.__init__")
def test_the_arguments_of_the_command_have_the_workspace(engine: ClientEngine, tmp_path: Path) -> None:
    with engine.new_context() as fl_ctx:
        assert fl_ctx.get_prop(FLContextKey.WORKSPACE_ROOT) == str(tmp_path)


@documented("ClientEngine.__init__")
def test_the_rank_is_that_of_the_local_process(tmp_path: Path) -> None:
    assert ClientEngine(Site(name=SITE_1), SiteArgs(workspace=tmp_path), 3).rank == 3


@documented("ClientEngine.__init__")
def test_there_are_five_workers_when_nothing_is_said(engine: ClientEngine) -> None:
    assert engine.workers == 5


@documented("ClientEngine.__init__")
def test_there_is_at_least_one_worker(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="workers must be >= 1"):
        ClientEngine(Site(name=SITE_1), SiteArgs(workspace=tmp_path), 0, workers=0)


@documented("ClientEngine.__init__", differs="Bases of a client parent's engine")
def test_the_engine_is_a_client_engine_spec_and_a_streamable_engine(engine: ClientEngine) -> None:
    assert {"ClientEngineSpec", "StreamableEngine"} <= {base.__name__ for base in NVFlareClientEngine.__mro__}
    assert isinstance(engine, StreamableEngine)
    assert "ClientEngineSpec" not in {base.__name__ for base in type(engine).__mro__}


@documented("ClientEngine.new_context")
def test_a_context_knows_its_engine_and_its_site(engine: ClientEngine) -> None:
    with engine.new_context() as fl_ctx:
        assert isinstance(fl_ctx, FLContext)
        assert (fl_ctx.get_engine(), fl_ctx.get_identity_name()) == (engine, SITE_1)


@documented("ClientEngine.new_context")
def test_contexts_come_from_one_manager_which_keeps_what_is_sticky(engine: ClientEngine) -> None:
    with engine.new_context() as first:
        first.set_prop("kept", 1, private=True, sticky=True)
        first.set_prop("lost", 1, private=True, sticky=False)
    with engine.new_context() as second:
        assert (second.get_prop("kept"), second.get_prop("lost")) == (1, None)


# -- components and events ---------------------------------------------------------------------------------------------


@documented("ClientEngine.add_component")
def test_an_added_component_takes_part_in_events(engine: ClientEngine) -> None:
    hearing = Hearing()
    engine.add_component("hearing", hearing)
    with engine.new_context() as fl_ctx:
        engine.fire_event("news", fl_ctx)
    assert hearing.heard == ["news"]


@documented("ClientEngine.add_component")
def test_the_id_of_a_component_is_a_text(engine: ClientEngine) -> None:
    with pytest.raises(TypeError, match="must be a str"):
        engine.add_component(1, Hearing())  # type: ignore[arg-type]


@documented("ClientEngine.add_component")
def test_no_two_components_have_one_id(engine: ClientEngine) -> None:
    engine.add_component("one", object())
    with pytest.raises(ValueError, match="exists already"):
        engine.add_component("one", object())


@documented("ClientEngine.get_component")
def test_a_component_is_found_by_its_id(engine: ClientEngine) -> None:
    component = object()
    engine.add_component("one", component)
    assert engine.get_component("one") is component


@documented("ClientEngine.get_component")
def test_there_is_none_for_an_unknown_id(engine: ClientEngine) -> None:
    assert engine.get_component("one") is None


@documented("ClientEngine.fire_event")
def test_an_event_reaches_every_component(engine: ClientEngine) -> None:
    both = Hearing(), Hearing()
    for number, each in enumerate(both):
        engine.add_component(str(number), each)
    with engine.new_context() as fl_ctx:
        engine.fire_event("news", fl_ctx)
    assert [each.heard for each in both] == [["news"], ["news"]]


# -- the cell ----------------------------------------------------------------------------------------------------------


@documented("ClientEngine.get_cell")
def test_the_engine_has_the_cell_that_it_was_given(served: ClientEngine) -> None:
    cell = served.get_cell()
    assert cell is not None
    assert cell.fqcn == SITE_1


@documented("ClientEngine.get_cell")
def test_the_engine_has_no_cell_before(engine: ClientEngine) -> None:
    assert engine.get_cell() is None


@documented("ClientEngine.initialize_comm")
def test_messages_are_handled_once_the_engine_was_given_its_cell(served: ClientEngine, server: Peer) -> None:
    with server.new_context() as fl_ctx:
        reply = server.send_aux_request([SITE_1], "greet", Shareable(), SOON, fl_ctx)[SITE_1]
        assert reply.get_return_code() == ReturnCode.TOPIC_UNKNOWN
        served.register_aux_message_handler("greet", greet)
        reply = server.send_aux_request([SITE_1], "greet", Shareable({"word": "hello"}), SOON, fl_ctx)[SITE_1]
    assert reply["greeting"] == "greet: hello, server"


# -- messages that come ------------------------------------------------------------------------------------------------


@documented("ClientEngine.register_aux_message_handler")
def test_a_handler_gets_the_messages_of_its_topic(served: ClientEngine, server: Peer) -> None:
    served.register_aux_message_handler("greet", greet)
    served.register_aux_message_handler("other", lambda topic, request, fl_ctx: make_reply(ReturnCode.ERROR))
    with server.new_context() as fl_ctx:
        reply = server.send_aux_request([SITE_1], "greet", Shareable({"word": "hello"}), SOON, fl_ctx)[SITE_1]
    assert reply["greeting"].startswith("greet: hello")


@documented("ClientEngine.register_aux_message_handler")
def test_a_topic_has_one_handler(engine: ClientEngine) -> None:
    engine.register_aux_message_handler("greet", greet)
    with pytest.raises(ValueError, match="has a handler already"):
        engine.register_aux_message_handler("greet", greet)


@documented("ClientEngine.register_aux_message_handler")
@pytest.mark.parametrize(("topic", "error"), [("", ValueError), (7, TypeError)], ids=["not empty", "a text"])
def test_a_topic_must_be(engine: ClientEngine, topic: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="topic must"):
        engine.register_aux_message_handler(topic, greet)


@documented("ClientEngine.register_aux_message_handler")
def test_a_handler_must_be_callable(engine: ClientEngine) -> None:
    with pytest.raises(TypeError, match="must be callable"):
        engine.register_aux_message_handler("greet", "no function")  # type: ignore[arg-type]


@documented("ClientEngine.register_aux_message_handler")
def test_a_handler_is_called_with_topic_request_and_context_by_name(served: ClientEngine, server: Peer) -> None:
    seen: list[set[str]] = []

    def handle(**arguments: Any) -> Shareable:
        seen.append(set(arguments))
        return make_reply(ReturnCode.OK)

    served.register_aux_message_handler("greet", handle)
    with server.new_context() as fl_ctx:
        server.send_aux_request([SITE_1], "greet", Shareable(), SOON, fl_ctx)
    assert seen == [{"topic", "request", "fl_ctx"}]


# -- messages to the server --------------------------------------------------------------------------------------------


@documented("ClientEngine.send_aux_request")
def test_a_request_goes_to_the_server_which_knows_who_asks(served: ClientEngine, server: Peer) -> None:
    server.register_aux_message_handler("greet", greet)
    with served.new_context() as fl_ctx:
        reply = served.send_aux_request("greet", Shareable({"word": "hello"}), SOON, fl_ctx)
    assert reply["greeting"] == f"greet: hello, {SITE_1}"


@documented("ClientEngine.send_aux_request")
def test_a_request_is_waited_for_no_longer_than_its_timeout(served: ClientEngine, server: Peer, cells: Cells) -> None:
    server.cell.stop()
    with served.new_context() as fl_ctx:
        reply = served.send_aux_request("greet", Shareable(), 0.1, fl_ctx)
    assert reply.get_return_code() in (ReturnCode.TIMEOUT, ReturnCode.SERVICE_UNAVAILABLE)


@documented("ClientEngine.send_aux_request")
def test_a_request_with_timeout_0_is_sent_and_not_waited_for(served: ClientEngine, server: Peer) -> None:
    seen = words_heard(server)
    with served.new_context() as fl_ctx:
        assert served.send_aux_request("greet", Shareable({"word": "hello"}), 0, fl_ctx) == Shareable()
    wait_until(lambda: seen == ["hello"])


@documented("ClientEngine.send_aux_request")
def test_the_failure_of_an_optional_request_is_no_warning(
    served: ClientEngine, server: Peer, caplog: pytest.LogCaptureFixture
) -> None:
    server.cell.stop()
    with served.new_context() as fl_ctx:
        for optional in (True, False):
            assert not [each for each in caplog.records if each.levelno >= logging.WARNING]
            served.send_aux_request("greet", Shareable(), 0.1, fl_ctx, optional=optional)
    assert [each for each in caplog.records if each.levelno >= logging.WARNING]


@documented("ClientEngine.send_aux_request", differs="`secure` of tasks, messages and streams")
def test_a_request_may_be_sent_in_a_secure_way(served: ClientEngine, server: Peer) -> None:
    server.register_aux_message_handler("greet", greet)
    with served.new_context() as fl_ctx:
        replies = [served.send_aux_request("greet", Shareable(), SOON, fl_ctx, secure=each) for each in (True, False)]
    assert replies[0]["greeting"] == replies[1]["greeting"]


@documented("ClientEngine.send_aux_request", differs="`send_aux_request` of a client parent")
def test_the_replies_come_in_a_dict_by_the_names_of_those_who_answered(served: ClientEngine, server: Peer) -> None:
    server.register_aux_message_handler("greet", greet)
    with served.new_context() as fl_ctx:
        reply = served.send_aux_request("greet", Shareable(), SOON, fl_ctx)
    assert type(reply) is Shareable
    assert reply.get_return_code() == ReturnCode.OK


@documented("ClientEngine.fire_and_forget_aux_request")
def test_a_message_may_be_sent_without_waiting(served: ClientEngine, server: Peer) -> None:
    seen = words_heard(server)
    with served.new_context() as fl_ctx:
        assert served.fire_and_forget_aux_request("greet", Shareable({"word": "hello"}), fl_ctx) == Shareable()
    wait_until(lambda: seen == ["hello"])
