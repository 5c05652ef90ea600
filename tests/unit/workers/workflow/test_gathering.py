"""A workflow waits until the sites that it needs have joined."""

from __future__ import annotations

import threading
from functools import partial

import pytest
from redflare_workers.apis import Signal
from redflare_workers.workflow.cross_site_eval import CrossSiteEval
from redflare_workers.workflow.cyclic import Cyclic
from redflare_workers.workflow.gathering import wait_for_clients

from tests.support.communicator.local_engine import LocalEngine
from tests.support.federation.threads import LocalFederation
from tests.support.waiting import wait_until


def test_it_returns_at_once_when_enough_are_there() -> None:
    engine = LocalEngine(["a", "b", "c"])
    assert wait_for_clients(engine, 2, Signal()) == ["a", "b", "c"]
    assert wait_for_clients(engine, 1, Signal(), names=["c"]) == ["a", "b", "c"]


def test_it_waits_for_those_that_are_named() -> None:
    engine = LocalEngine(["a", "b"])
    timer = threading.Timer(0.05, engine.join, ["c"])
    timer.start()
    assert wait_for_clients(engine, 1, Signal(), names=["c"]) == ["a", "b", "c"]
    timer.join()


def test_the_log_says_for_whom_it_waits(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    engine = LocalEngine(["a"])

    def said(text: str) -> bool:
        return text in caplog.text

    def join() -> None:
        for name, text in (("b", "waiting for 2 more sites to join: c"), ("c", "waiting for 1 more site to join: c")):
            wait_until(partial(said, f"the workflow is {text}"))
            engine.join(name)

    thread = threading.Thread(target=join)
    thread.start()
    assert wait_for_clients(engine, 3, Signal(), names=["c"]) == ["a", "b", "c"]
    thread.join()


def test_after_the_timeout_the_present_clients_are_enough() -> None:
    assert wait_for_clients(LocalEngine(["a"]), 2, Signal(), timeout=0.01) == ["a"]


def test_an_abort_ends_the_wait_and_nothing_is_scheduled() -> None:
    signal = Signal()
    signal.trigger("enough")
    assert wait_for_clients(LocalEngine(), 1, signal) == []
    for workflow in (Cyclic({"w": 1.0}), CrossSiteEval()):
        federation = LocalFederation(workflow)
        federation.engine.abort_signal.trigger("enough")
        federation.run()
        assert federation.engine.panics == []
