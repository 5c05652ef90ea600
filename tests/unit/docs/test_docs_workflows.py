"""The examples of the page on workflows are run as they are."""

from __future__ import annotations

import threading
from typing import Any

from redflare_broker.embedded.server import EmbeddedServer
from redflare_workers.apis.dxo import DXO, DataKind, from_shareable
from redflare_workers.apis.shareable import Shareable

from tests.support.federation.threads import LocalFederation, Work
from tests.support.paths import ROOT
from tests.unit.docs.test_docs_examples import DOCS, blocks


def page() -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile("\n".join(blocks(DOCS / "workflows.md", "python")), "workflows.md", "exec"), names)
    return names


def test_a_server_and_two_sites_train_a_model() -> None:
    names = page()
    with EmbeddedServer() as server:
        sites = [threading.Thread(target=names["site"], args=(server.url, f"site-{number}")) for number in (1, 2)]
        for thread in sites:
            thread.start()
        workflow = names["server"](server.url)
        for thread in sites:
            thread.join(20)
    assert workflow.model["w"].tolist() == [3, 3, 3]
    assert not any(thread.is_alive() for thread in sites)


def test_the_controller_of_ones_own_asks_all_sites() -> None:
    means: list[float] = []

    def counting(count: float, total: float) -> Work:
        def work(name: str, data: Shareable) -> Shareable | None:
            if name == "report":
                means.append(from_shareable(data).data["mean"])
                return DXO(DataKind.METRICS, {}).to_shareable()
            return DXO(DataKind.METRICS, {"count": count, "sum": total}).to_shareable()

        return work

    workflow = page()["GlobalMean"](min_clients=2)
    federation = LocalFederation(workflow, {"a": counting(1, 10), "b": counting(3, 2)})
    federation.run()
    assert means == [3, 3]
    assert federation.engine.panics == []


def test_every_shipped_workflow_is_as_short_as_the_page_says() -> None:
    folder = ROOT / "workers" / "redflare_workers" / "workflow"
    for name in ("fedavg", "cyclic", "fedbuff", "cross_site_eval"):
        assert len((folder / f"{name}.py").read_text().splitlines()) <= 160
