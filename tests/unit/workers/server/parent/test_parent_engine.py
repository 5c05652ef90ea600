"""The server's parent has the messages and streams that the engines of its sites promise."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fakeredis
import pytest
from redflare_workers.apis import FLComponent, FLContext, Shareable
from redflare_workers.apis.event_type import EventType
from redflare_workers.apis.fl_constant import FLContextKey, ProcessType, ReturnCode
from redflare_workers.apis.shareable import make_reply
from redflare_workers.client.parent.client_engine import ClientEngine
from redflare_workers.server.parent.server_parent import ServerParent
from redflare_workers.workspace.site_settings import Site, SiteArgs

from tests.support.cell.cells import SETTINGS
from tests.support.cell.streams import Numbers, Sink
from tests.support.waiting import wait_until


class Greeter(FLComponent):
    """Answers messages, takes streams, and can ask the sites."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str] = []
        self.sink = Sink()
        self.contexts: list[FLContext] = []

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        self.heard.append(event_type)
        self.contexts.append(fl_ctx)
        if event_type == EventType.SYSTEM_START:
            assert fl_ctx.get_process_type() == ProcessType.SERVER_PARENT
            engine = fl_ctx.get_engine()
            engine.register_aux_message_handler("greet", self.greet)
            engine.register_stream_processing("files", "*", self.sink)

    def greet(self, topic: str, request: Shareable, fl_ctx: FLContext) -> Shareable:
        peer = fl_ctx.get_peer_context()
        assert peer is not None
        reply = make_reply(ReturnCode.OK)
        reply["greeting"] = f"{request['word']}, {peer.get_identity_name()}"
        return reply


class Federation:
    """A server's parent and two client parents, in threads."""

    def __init__(self, folder: Path, name: str) -> None:
        client: Any = fakeredis.FakeRedis(server=fakeredis.FakeServer())
        self.greeter = Greeter()
        self.server = ServerParent(
            folder / "server", settings=SETTINGS, client=client, server_name=name, components={"greeter": self.greeter}
        )
        args = {"settings": SETTINGS, "client": client, "server_name": name}
        self.sites = [
            ClientEngine(Site(name=each), SiteArgs(workspace=folder / each, **args), 0) for each in ("site-1", "site-2")
        ]
        parents: list[ServerParent | ClientEngine] = [self.server, *self.sites]
        self.threads = [threading.Thread(target=each.run, daemon=True) for each in parents]
        for thread in self.threads:
            thread.start()

    @property
    def engine(self) -> Any:
        """That of the server."""
        return self.greeter.contexts[0].get_engine()

    def stop(self) -> None:
        for site in self.sites:
            site.stop()
        self.server.stop()
        for thread in self.threads:
            thread.join(20)


@pytest.fixture(params=["server", "hospital"])
def federation(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Federation]:
    made = Federation(tmp_path, request.param)
    wait_until(lambda: made.greeter.heard and len(made.engine.usual_targets()) == 2)
    yield made
    made.stop()
    assert made.greeter.heard[0] == EventType.SYSTEM_START
    assert made.greeter.heard[-1] == EventType.SYSTEM_END


def test_a_client_parent_asks_the_server(federation: Federation) -> None:
    for site in federation.sites:
        with site.new_context() as fl_ctx:
            reply = site.send_aux_request("greet", Shareable({"word": "hello"}), 10.0, fl_ctx)
            assert reply["greeting"] == f"hello, {site.client_name}"
            assert site.send_aux_request("other", Shareable(), 10.0, fl_ctx).get_return_code() == "TOPIC_UNKNOWN"


def test_a_client_parent_streams_to_the_server(federation: Federation) -> None:
    site = federation.sites[0]
    with site.new_context() as fl_ctx:
        for number, targets in enumerate((None, "server", ["server"], [site.server_name]), 1):
            assert site.stream_objects("files", "one", {}, targets, Numbers([1, 0]), fl_ctx)[0] == ReturnCode.OK
            assert federation.greeter.sink.values == [1, 0] * number


def test_a_client_parent_reaches_no_other_site(federation: Federation) -> None:
    site = federation.sites[0]
    with site.new_context() as fl_ctx, pytest.raises(ValueError, match=r"reaches the server .* only, not \['site-2'\]"):
        site.stream_objects("files", "one", {}, ["server", "site-2"], Numbers([1, 0]), fl_ctx)
    assert federation.greeter.sink.values == []


def test_the_server_asks_all_connected_sites_or_one(federation: Federation) -> None:
    for site in federation.sites:
        site.register_aux_message_handler(
            "who", lambda topic, request, fl_ctx: make_reply(ReturnCode.OK, {"from": fl_ctx.get_identity_name()})
        )
    engine = federation.engine
    with engine.new_context() as fl_ctx:
        replies = engine.send_aux_request(None, "who", Shareable(), 10.0, fl_ctx)
        assert {name: reply.get_header("from") for name, reply in replies.items()} == {
            "site-1": "site-1",
            "site-2": "site-2",
        }
        assert list(engine.send_aux_request("site-2", "who", Shareable(), 10.0, fl_ctx)) == ["site-2"]
        lost = engine.send_aux_request("site-3", "who", Shareable(), 10.0, fl_ctx)["site-3"]
        assert lost.get_return_code() == ReturnCode.COMMUNICATION_ERROR
        assert fl_ctx.get_prop(FLContextKey.WORKSPACE_ROOT) == str(federation.server.workspace)
