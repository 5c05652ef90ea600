"""Messages between components of a running job: of the server, of sites, and of sites that share a process."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fakeredis
import pytest
from redflare_workers.apis.event_type import EventType
from redflare_workers.apis.fl_component import FLComponent
from redflare_workers.apis.fl_constant import ReturnCode
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.shareable import Shareable, make_reply
from redflare_workers.apis.signal import Signal
from redflare_workers.client.shared.cell_host import CellHost
from redflare_workers.messaging import FileStreamer
from redflare_workers.protocol.job_outcome import COMPLETED

from tests.support.job.runs import FunctionController, JobRuns
from tests.support.paths import DOCS
from tests.support.waiting import wait_until


@pytest.fixture
def job() -> Iterator[JobRuns]:
    client = fakeredis.FakeRedis(server=fakeredis.FakeServer())
    before = set(threading.enumerate())
    with JobRuns(client) as runs:
        yield runs
    wait_until(lambda: not {one for one in threading.enumerate() if one not in before}, what="threads end")
    keys = [str(key, "utf8") for key in client.scan_iter()]
    assert not [key for key in keys if ":blob:" in key], "payloads are left"
    assert not [key for key in keys if client.pttl(key) < 0], "keys without an end are left"
    client.close()


class MessagingComponent(FLComponent):
    """Answers "name" with the name of its process; at the start of the run it sends its own requests."""

    def __init__(self, at_start: Any = None) -> None:
        self._at_start = at_start
        self.answers: list[Any] = []

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        if event_type != EventType.START_RUN:
            return
        fl_ctx.get_engine().register_aux_message_handler("name", self._on_name)
        if self._at_start is not None:
            self.answers.append(self._at_start(fl_ctx))

    def _on_name(self, topic: str, request: Shareable, fl_ctx: FLContext) -> Shareable:
        reply = make_reply(ReturnCode.OK)
        peer = fl_ctx.get_peer_context()
        assert peer is not None
        reply["names"] = [fl_ctx.get_identity_name(), peer.get_identity_name()]
        return reply


def ask_name(fl_ctx: FLContext, targets: Any = None) -> dict[str, Any]:
    answers = fl_ctx.get_engine().send_aux_request(targets, "name", Shareable(), 10.0, fl_ctx)
    return {name: reply.get("names") for name, reply in answers.items()}


def test_the_server_asks_all_sites_and_a_site_its_server_and_other_sites(job: JobRuns) -> None:
    answers: list[Any] = []
    asked = threading.Event()

    def flow(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        wait_until(lambda: len(fl_ctx.get_engine().get_clients()) == 2)
        answers.append(ask_name(fl_ctx))
        answers.append(ask_name(fl_ctx, ["b", "nobody"]))
        asked.wait(20)

    job.serve(flow, components={"talker": MessagingComponent()})
    job.join("a", components={"talker": MessagingComponent()})
    site = job.join("b", components={"talker": MessagingComponent()})
    wait_until(lambda: len(answers) == 2)
    with site.engine.new_context() as fl_ctx:
        assert ask_name(fl_ctx) == {"server": ["server", "b"]}
        assert ask_name(fl_ctx, ["a", "server"]) == {"a": ["a", "b"], "server": ["server", "b"]}
    asked.set()
    assert job.outcome().status == COMPLETED
    assert answers == [{"a": ["a", "server"], "b": ["b", "server"]}, {"b": ["b", "server"], "nobody": None}]


def test_a_message_to_a_server_that_has_only_begun_is_answered_when_it_runs(job: JobRuns) -> None:
    talker = MessagingComponent(ask_name)
    job.join("a", components={"talker": talker})

    def flow(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        wait_until(lambda: talker.answers)

    job.serve(flow, components={"talker": MessagingComponent()})
    assert job.outcome().status == COMPLETED
    assert talker.answers == [{"server": ["server", "a"]}]


def test_the_component_of_the_page_on_messaging_answers(job: JobRuns) -> None:
    page = DOCS / "messaging.md"
    component, ask = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)[:2]
    names: dict[str, Any] = {}
    exec(component, names)

    def flow(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        wait_until(lambda: len(fl_ctx.get_engine().get_clients()) == 2)
        exec(ask, names | {"fl_ctx": fl_ctx}, names)

    job.serve(flow)
    for name in ("site-1", "site-2"):
        job.join(name, components={"clock": names["Clock"]()})
    assert job.outcome().status == COMPLETED
    assert {name: reply["asked_by"] for name, reply in names["replies"].items()} == {
        "site-1": "server",
        "site-2": "server",
    }


def test_sites_of_one_process_get_their_own_messages(job: JobRuns) -> None:
    answers: list[Any] = []
    done = threading.Event()

    def flow(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        wait_until(lambda: len(fl_ctx.get_engine().get_clients()) == 3)
        answers.append(ask_name(fl_ctx))
        done.wait(20)

    job.serve(flow, components={"talker": MessagingComponent()})
    with CellHost("sites", "job", settings=job.settings, client=job.place["client"]) as host:
        sites = [job.join(name, host=host, components={"talker": MessagingComponent()}) for name in ("a", "b", "c")]
        wait_until(lambda: answers)
        with sites[0].engine.new_context() as fl_ctx:
            assert ask_name(fl_ctx, ["c", "server"]) == {"c": ["c", "a"], "server": ["server", "a"]}
        done.set()
        assert job.outcome().status == COMPLETED
        job.site_outcomes()
    assert answers == [{name: [name, "server"] for name in ("a", "b", "c")}]


def test_a_file_goes_from_a_site_to_the_server_and_back(job: JobRuns, tmp_path: Path) -> None:
    sent = tmp_path / "sent"
    sent.write_bytes(os.urandom(3_000_000))
    folders = {name: tmp_path / name for name in ("server", "a")}
    for folder in folders.values():
        folder.mkdir()
    arrived = threading.Event()
    answers: list[Any] = []

    class Files(MessagingComponent):
        def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
            name = fl_ctx.get_identity_name()
            if event_type == EventType.START_RUN:
                FileStreamer.register_stream_processing(fl_ctx, "files", "*", str(folders[name]), self._arrived)
                if name == "a":
                    answers.append(FileStreamer.stream_file("files", "up", None, [], str(sent), fl_ctx)[0])

        def _arrived(self, stream_ctx: dict[str, Any], fl_ctx: FLContext) -> None:
            os.rename(FileStreamer.get_file_location(stream_ctx), folders[fl_ctx.get_identity_name()] / "got")
            arrived.set()

    def flow(controller: FunctionController, abort: Signal, fl_ctx: FLContext) -> None:
        assert arrived.wait(20)
        wait_until(lambda: answers)
        back = str(folders["server"] / "got")
        answers.append(FileStreamer.stream_file("files", "down", None, ["a"], back, fl_ctx)[0])

    job.serve(flow, components={"files": Files()})
    job.join("a", components={"files": Files()})
    assert job.outcome().status == COMPLETED
    assert answers == [ReturnCode.OK, ReturnCode.OK]
    wait_until((folders["a"] / "got").exists)
    assert (folders["a"] / "got").read_bytes() == sent.read_bytes()
