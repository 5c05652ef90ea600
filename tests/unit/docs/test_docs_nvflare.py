"""The tables of imports in ``docs/from-nvflare.md``: what they name exists, and code moves as they say."""

from __future__ import annotations

import importlib
import re
import threading
from typing import Any, Final

import numpy as np
import pytest
import redflare_workers
from redflare_agent import flare
from redflare_broker.testing import LinkUnderTest
from redflare_workers import DXO, DataKind, Shareable, from_shareable

from tests.support.federation.threads import LocalFederation
from tests.support.paths import DOCS
from tests.unit.docs.moved_nvflare import ROWS, with_imports_changed

#: The page's statements, NVFlare's and ours.
IMPORTS: Final = re.findall(
    r"^\| `(from nvflare[^`]*)` \| `(from redflare[^`]*)` \|$", (DOCS / "from-nvflare.md").read_text(), re.M
)

#: A controller as users of NVFlare write it.
CONTROLLER: Final = """
from nvflare.apis.client import Client
from nvflare.apis.controller_spec import ClientTask, SendOrder, Task, TaskCompletionStatus
from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.event_type import EventType
from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import FLContextKey, ReservedKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.fl_exception import UnsafeJobError
from nvflare.apis.impl.controller import Controller
from nvflare.apis.job_def import JobMetaKey
from nvflare.apis.shareable import ReservedHeaderKey, ReturnCode, Shareable, make_reply
from nvflare.apis.signal import Signal
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.app_event_type import AppEventType


class Sum(Controller):
    def __init__(self, num_rounds=2):
        super().__init__()
        self.num_rounds = num_rounds
        self.total = 0
        self.done = []

    def start_controller(self, fl_ctx: FLContext):
        self.clients = [c.name for c in self._engine.get_clients()]

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext):
        for r in range(self.num_rounds):
            if abort_signal.triggered:
                return
            fl_ctx.set_prop(AppConstants.CURRENT_ROUND, r, private=True, sticky=True)
            self.fire_event(AppEventType.ROUND_STARTED, fl_ctx)
            data = DXO(DataKind.METRICS, data={"n": self.total}).to_shareable()
            data.set_header(AppConstants.CURRENT_ROUND, r)
            data.add_cookie(AppConstants.CONTRIBUTION_ROUND, r)
            task = Task(
                name=AppConstants.TASK_TRAIN,
                data=data,
                props={"round": r},
                timeout=20,
                result_received_cb=self._on_result,
                task_done_cb=self._on_done,
            )
            self.broadcast_and_wait(task=task, targets=self.clients, min_responses=2, fl_ctx=fl_ctx,
                                    abort_signal=abort_signal)
            if task.completion_status != TaskCompletionStatus.OK:
                self.system_panic(f"round {r}: {task.completion_status}", fl_ctx)

    def _on_result(self, client_task: ClientTask, fl_ctx: FLContext):
        result = client_task.result
        if result.get_return_code() == ReturnCode.OK:
            self.total += from_shareable(result).data["n"]
        client_task.props["seen"] = True

    def _on_done(self, task: Task, fl_ctx: FLContext):
        self.done.append((task.get_prop("round"), all(ct.props["seen"] for ct in task.client_tasks)))

    def process_result_of_unknown_task(self, client: Client, task_name, client_task_id, result, fl_ctx: FLContext):
        self.log_error(fl_ctx, f"unknown task {task_name} from {client.name}")

    def stop_controller(self, fl_ctx: FLContext):
        self.cancel_all_tasks(fl_ctx=fl_ctx)
"""


@pytest.mark.parametrize(("theirs", "ours"), IMPORTS)
def test_both_imports_of_a_row_give_the_same_names(theirs: str, ours: str) -> None:
    found: list[set[str]] = []
    for statement in (theirs, ours):
        names: dict[str, Any] = {}
        exec(statement, names)
        found.append(set(names) - {"__builtins__"})
    assert found[0] == found[1]


@pytest.mark.parametrize(("theirs", "ours"), ROWS)
def test_both_modules_of_a_row_exist(theirs: str, ours: str) -> None:
    assert importlib.import_module(theirs)
    assert importlib.import_module(ours)


def test_the_tables_have_rows() -> None:
    assert (len(ROWS), len(IMPORTS)) == (7, 12)


def test_the_names_of_the_page_are_in_the_workers() -> None:
    names = ("Shareable", "FLContext", "Signal", "Executor", "FLComponent", "EventType")
    assert [name for name in names if not hasattr(redflare_workers, name)] == []


def test_a_controller_runs_when_its_imports_were_changed_as_the_page_says() -> None:
    names: dict[str, Any] = {}
    exec(compile(with_imports_changed(CONTROLLER), "moved.py", "exec"), names)
    controller = names["Sum"]()

    def work(name: str, data: Shareable) -> Shareable:
        return DXO(DataKind.METRICS, {"n": from_shareable(data).data["n"] + 1}).to_shareable()

    federation = LocalFederation(controller, {"site-1": work, "site-2": work})
    federation.run()
    assert federation.engine.panics == []
    # 0 + 1 + 1, then twice 2 + 1
    assert controller.total == 8
    assert controller.done == [(0, True), (1, True)]


#: A script for the Client API in the way of NVFlare's examples, which begin with the site's name.
SCRIPT: Final = """
import nvflare.client as flare
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.app_common.np.constants import NPConstants


def main(**link):
    flare.init(**link)
    site_name = flare.system_info()["site_name"]
    print(f"site={site_name} {flare.get_site_name()}")
    while flare.is_running():
        input_model = flare.receive()
        array = input_model.params[NPConstants.NUMPY_KEY] + 1
        flare.send(FLModel(params={NPConstants.NUMPY_KEY: array}, params_type=ParamsType.FULL, metrics={"loss": 0.5}))
"""


@pytest.mark.parametrize("left", ["", "FLModel"])
def test_a_script_of_the_client_api_trains_when_its_imports_were_changed_as_the_page_says(
    redflare_link: LinkUnderTest, capsys: pytest.CaptureFixture[str], left: str
) -> None:
    page = (DOCS / "from-nvflare.md").read_text()
    their_module, our_module = re.findall(r"`(import [\w.]+ as flare)`", page)
    moved = SCRIPT.replace(their_module, our_module)
    for theirs, ours in IMPORTS:
        if not left or left not in theirs:
            moved = moved.replace(theirs, ours)
    assert ("nvflare" in moved) == bool(left)
    script: dict[str, Any] = {}
    exec(compile(moved, "script.py", "exec"), script)
    link = redflare_link.agent_args | {"site_name": "site-1"}
    del link["flare_site_url"], link["flare_site_name"]
    training = threading.Thread(target=script["main"], kwargs=link)
    training.start()
    with redflare_link.cj() as cj:
        result = cj.send("train", {"numpy_key": np.zeros(2)}, {"current_round": 0}).result(10)
    training.join(10)
    flare.shutdown()
    assert not training.is_alive()
    assert result.data["numpy_key"].tolist() == [1.0, 1.0]
    assert result.meta == {"data_kind": "WEIGHTS", "initial_metrics": {"loss": 0.5}}
    assert capsys.readouterr().out == "site=site-1 site-1\n"


def test_what_the_page_says_is_missing_of_the_client_api_is_missing() -> None:
    assert [name for name in ("log", "SummaryWriter", "train", "evaluate") if hasattr(flare, name)] == []
