"""Names, values, parameters and defaults that code written for NVFlare relies on stay as they are.

They are data, in ``nvflare_names.json``. Where ours differ on purpose (``min_responses`` of a broadcast is 0), the data
says what ours is.
"""

from __future__ import annotations

import inspect
import json
from enum import Enum
from pathlib import Path
from typing import Any, Final

import pytest
from redflare_workers import apis, workflow

NAMES: Final[dict[str, Any]] = json.loads(Path(__file__).with_name("nvflare_names.json").read_text())
#: The module of ``redflare_workers.apis`` in which code finds a name when only its package's name was changed.
MODULES: Final = {
    "app_constant": [
        "AlgorithmConstants", "AppConstants", "ModelName", "NPConstants", "StatisticsConstants", "ValidateType"
    ],
    "app_event_type": ["AppEventType"],
    "client": ["Client", "ClientPropKey"],
    "controller_spec": [
        "ClientTask", "ControllerSpec", "OperatorConfigKey", "OperatorMethod", "SendOrder", "Task",
        "TaskCompletionStatus", "TaskOperatorKey",
    ],
    "dxo": ["DXO", "DataKind", "MetaKey", "from_bytes", "from_dict", "from_file", "from_shareable", "get_leaf_dxos"],
    "event_type": ["EventType"],
    "executor": ["Executor"],
    "filter": ["ContentBlockedException", "Filter", "FilterChainType"],
    "fl_component": ["FLComponent"],
    "fl_constant": [
        "EventScope", "FLContextKey", "FLMetaKey", "FedEventHeader", "JobConstants", "LogMessageTag", "ProcessType",
        "ReservedKey", "ReturnCode",
    ],
    "fl_context": ["FLContext", "FLContextManager"],
    "fl_exception": ["NotReadyToEndRun", "TaskExecutionError", "UnsafeJobError"],
    "server_engine_spec": ["ServerEngineSpec"],
    "shareable": ["ReservedHeaderKey", "ReturnCode", "Shareable", "make_copy", "make_reply"],
    "signal": ["Signal"],
    "wf_comm_spec": ["WFCommSpec"],
    "workspace": ["Workspace"],
}  # fmt: skip


def found(path: str) -> Any:
    """The object with a name of the vocabulary or of the workflows, ``Task.set_prop`` for example."""
    name, _, attribute = path.partition(".")
    value = getattr(apis, name, None) or getattr(workflow, name)
    return getattr(value, attribute) if attribute else value


def parameters(function: Any) -> list[inspect.Parameter]:
    return [each for each in inspect.signature(function).parameters.values() if each.name != "self"]


def written(parameter: inspect.Parameter) -> str:
    default = parameter.default.value if isinstance(parameter.default, Enum) else parameter.default
    return parameter.name if default is inspect.Parameter.empty else f"{parameter.name}={default!r}"


@pytest.mark.parametrize("name", NAMES["constants"])
def test_constants_keep_their_names_and_values(name: str) -> None:
    group, wanted = found(name), NAMES["constants"][name]
    assert {key: str(getattr(group, key, "(missing)")) for key in wanted} == wanted


@pytest.mark.parametrize("name", NAMES["parameters"])
def test_callables_keep_their_parameters_and_defaults(name: str) -> None:
    wanted = NAMES["parameters"][name]
    count = len(wanted.split(", ")) if wanted else 0
    known, more = parameters(found(name))[:count], parameters(found(name))[count:]
    assert ", ".join(map(written, known)) == wanted
    # further parameters have defaults
    assert [each.name for each in more if each.kind is not each.KEYWORD_ONLY and each.default is each.empty] == []


@pytest.mark.parametrize("module", MODULES)
def test_words_are_in_the_module_of_the_same_name(module: str) -> None:
    names = vars(__import__(f"redflare_workers.apis.{module}", fromlist=["*"]))
    assert [name for name in MODULES[module] if names.get(name) is not getattr(apis, name)] == []


def test_attributes_of_tasks_and_controllers_that_are_read_and_set() -> None:
    task = apis.Task("train", apis.Shareable())
    client_task = apis.ClientTask(apis.Client("site-1", ""), task)
    assert vars(task).keys() >= {
        "name", "data", "props", "timeout", "operator", "secure", "targets", "client_tasks", "last_client_task_map",
        "completion_status", "is_standing", "schedule_time", "create_time", "exception", "msg_root_id", "cb_lock",
        "before_task_sent_cb", "after_task_sent_cb", "result_received_cb", "task_done_cb",
    }  # fmt: skip
    assert vars(client_task).keys() >= {
        "client", "task", "id", "task_send_count", "task_sent_time", "result_received_time", "result", "props"
    }  # fmt: skip
