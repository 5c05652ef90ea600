"""The page about NVFlare is complete; that its changes work is tested in the other files."""

from __future__ import annotations

import inspect
import json
import threading
from typing import Any

import pytest
from redflare_agent import flare
from redflare_broker.embedded.server import EmbeddedServer
from redflare_workers.ipc.exchanger import IPCExchanger
from redflare_workers.nvflare import RedisExchanger

from tests.inside_nvflare.jobs import blocks
from tests.support.paths import DOCS

PAGE = (DOCS / "nvflare.md").read_text()


def test_the_script_of_the_page_trains() -> None:
    (text,) = blocks("python")
    page: dict[str, Any] = {}
    exec(compile(text, "nvflare.md", "exec"), page)
    with EmbeddedServer() as server:
        with IPCExchanger(redis_url=server.url, site_name="site-1", agent_id="trainer") as site:
            trainer = threading.Thread(target=page["main"], args=[server.url])
            trainer.start()
            assert site.run("train", {"w": 1}, timeout=10).data == {"w": 2}
        trainer.join(timeout=10)
        flare.shutdown()
        assert not trainer.is_alive()


@pytest.mark.parametrize("name", sorted({*flare.__all__} - {"APIContext", "get_context"}))
def test_every_name_of_flare_is_on_the_page(name: str) -> None:
    assert f"`{name}`" in PAGE


def test_every_argument_beyond_nvflares_is_on_the_page() -> None:
    parameters = inspect.signature(RedisExchanger).parameters
    more = list(parameters)[list(parameters).index("agent_id") + 1 :]
    for name in more:
        if parameters[name].kind is not inspect.Parameter.KEYWORD_ONLY:
            default = json.dumps(parameters[name].default)
            assert f"| `{name}` | `{default}` |" in PAGE
