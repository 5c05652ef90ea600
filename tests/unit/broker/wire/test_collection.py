"""Collections of DXOs: plain dicts on the wire, objects on both sides."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from redflare_agent import DXO, DataKind, IPCAgent, TaskResult
from redflare_broker.testing.plugin import LinkUnderTest
from redflare_broker.wire.collection import from_plain, to_plain
from redflare_workers import apis
from redflare_workers.apis import Signal, from_shareable
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.ipc.exchanger import IPCExchanger


def test_plain_data_is_decoded_unchanged() -> None:
    data = {"a": DXO("WEIGHTS", {"w": 1}, {"m": 2}), "b": DXO("COLLECTION", {"c": DXO("APP_DEFINED", [1])}), "d": 5}
    plain = to_plain("COLLECTION", data, DXO)
    assert plain == {
        "a": {"kind": "WEIGHTS", "data": {"w": 1}, "meta": {"m": 2}},
        "b": {"kind": "COLLECTION", "data": {"c": {"kind": "APP_DEFINED", "data": [1], "meta": {}}}, "meta": {}},
        "d": 5,
    }
    back = from_plain("COLLECTION", plain, DXO)
    assert isinstance(back["b"].data["c"], DXO)
    assert repr(back) == repr(data)


@pytest.mark.parametrize("kind", [None, "WEIGHTS", "APP_DEFINED"])
def test_data_of_another_kind_is_left_alone(kind: str | None) -> None:
    data = {"a": {"kind": "WEIGHTS", "data": {}, "meta": {}}}
    assert from_plain(kind, data, DXO) is data
    assert to_plain(kind, data, DXO) is data


@pytest.mark.parametrize(
    "item",
    [
        5,
        {"kind": "WEIGHTS", "data": {}},
        {"kind": 1, "data": {}, "meta": {}},
        {"kind": "WEIGHTS", "data": [1], "meta": {}},
        {"kind": "WEIGHTS", "data": {}, "meta": None},
        {"kind": "WEIGHTS", "data": {}, "meta": {}, "more": 1},
    ],
)
def test_data_that_is_no_dxo_is_unchanged(item: Any) -> None:
    assert from_plain("COLLECTION", {"a": item}, DXO) == {"a": item}


@pytest.mark.parametrize(("kind", "data", "meta"), [("WEIGHTS", [1], None), ("WEIGHTS", {}, 5)])
def test_an_agents_dxo_refuses_invalid_arguments(kind: str, data: Any, meta: Any) -> None:
    with pytest.raises(ValueError, match="must be a dict"):
        DXO(kind, data, meta)


def test_an_agents_dxo_has_the_kinds_and_the_meta_calls_of_the_job_side() -> None:
    assert [(kind.name, kind.value) for kind in DataKind] == [(kind.name, kind.value) for kind in apis.DataKind]
    dxo = DXO(DataKind.METRICS, None)
    dxo.set_meta_prop("a", 1)
    assert (dxo.data, dxo.get_meta_prop("a"), dxo.get_meta_prop("b", 2)) == ({}, 1, 2)


def test_our_own_exchanger_passes_collections_too(redflare_link: LinkUnderTest) -> None:
    task = apis.DXO(apis.DataKind.COLLECTION, {"a": apis.DXO(apis.DataKind.WEIGHTS, {"w": 1})}).to_shareable()
    with IPCAgent(**redflare_link.agent_args) as agent, IPCExchanger(**redflare_link.exchanger_args) as exchanger:
        answering = _answer_in_thread(agent)
        reply = from_shareable(exchanger.execute("train", task, FLContext(), Signal()))
        answering.join(10)
    assert isinstance(reply.data["a"], apis.DXO)
    assert reply.data["a"].data == {"w": 2}


def _answer_in_thread(agent: IPCAgent) -> threading.Thread:
    def answer() -> None:
        task = agent.get_task(10)
        assert task is not None
        task.data["a"].data["w"] += 1
        agent.submit_result(TaskResult(dict(task.meta), task.data))

    thread = threading.Thread(target=answer)
    thread.start()
    return thread
