"""Python on the pages that no page's own test runs, and the list of the pages whose Python is run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import fakeredis
import pytest
from redflare_broker.embedded import EmbeddedServer
from redflare_workers import EventType, FileStreamer, FLComponent, FLContext, ServerJob, Signal
from redflare_workers.workflow import FedAvg

from tests.support.job.runs import JobRuns
from tests.support.paths import DOCS, ROOT
from tests.support.waiting import wait_until
from tests.unit.docs.test_docs_examples import blocks

REDFLARE: Final = Path(sys.executable).with_name("redflare")


@pytest.mark.parametrize(
    ("page", "check"), [("server.md", ["server"]), ("sites.md", ["site", "site-1"])], ids=["server", "site"]
)
def test_the_program_of_a_parent_process_serves(tmp_path: Path, page: str, check: list[str]) -> None:
    (text,) = blocks(DOCS / page, "python")
    with EmbeddedServer() as server:
        program = re.sub(r'"/srv/[\w-]+"', repr(str(tmp_path)), text).replace("redis://redis.example.org", server.url)
        asking: list[str | Path] = [REDFLARE, *check, "--check", "--url", server.url]
        with subprocess.Popen([sys.executable, "-W", "error", "-c", program], cwd=tmp_path) as running:
            try:
                wait_until(lambda: subprocess.run(asking, capture_output=True, check=False).returncode == 0, 30)
            finally:
                running.kill()


def test_a_job_s_meta_is_an_argument() -> None:
    (text,) = (text for text in blocks(DOCS / "jobs.md", "python") if text.startswith("ServerJob("))
    exec(text, {"ServerJob": ServerJob, "workflow": FedAvg({"w": 0.0}, min_clients=3, num_rounds=1)})


def test_a_file_is_streamed_as_the_page_shows(tmp_path: Path) -> None:
    text = blocks(DOCS / "messaging.md", "python")[2]
    register, send = text.split("# at the sender")
    (tmp_path / "model.bin").write_bytes(b"model")
    send = send.replace("/data/model.bin", str(tmp_path / "model.bin")).replace('["server"]', '["site-1"]')
    register = register.replace("/data/in", str(tmp_path / "in"))
    arrived: list[Path] = []
    names: dict[str, Any] = {"FileStreamer": FileStreamer}

    def on_arrival(stream_ctx: dict[str, Any], fl_ctx: FLContext) -> None:
        arrived.append(Path(FileStreamer.get_file_location(stream_ctx)))

    def flow(controller: Any, abort: Signal, fl_ctx: FLContext) -> None:
        wait_until(lambda: fl_ctx.get_engine().get_clients())
        exec(send, names | {"fl_ctx": fl_ctx}, names)

    class Registering(FLComponent):
        def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
            if event_type == EventType.START_RUN:
                exec(register, {"fl_ctx": fl_ctx, "arrived": on_arrival}, names)

    with JobRuns(fakeredis.FakeRedis(server=fakeredis.FakeServer())) as job:
        (tmp_path / "in").mkdir()
        job.join("site-1", components={"receiver": Registering()})
        job.serve(flow)
        assert job.outcome().ok
        wait_until(lambda: arrived)
    assert arrived[0].read_bytes() == b"model"


def test_the_python_of_every_page_is_run_by_a_test() -> None:
    tests = "\n".join(file.read_text() for file in (ROOT / "tests").rglob("*.py"))
    pages = [page for page in (ROOT / "README.md", *DOCS.glob("*.md")) if blocks(page, "python")]
    assert [page.name for page in pages if f'"{page.name}"' not in tests] == []
