"""Nothing that is documented is left out, and each difference has its row."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
from nvflare.apis.wf_comm_spec import WFCommSpec
from nvflare.client.ipc import defs
from nvflare.client.ipc.ipc_agent import IPCAgent
from nvflare.fuel.f3.cellnet.fqcn import FQCN
from nvflare.private.fed.client.client_engine import ClientEngine

from tests.fundamentals.documented import sentences
from tests.support.tables import differences

for each in Path(__file__).parent.glob("test_documented_*.py"):
    if each != Path(__file__):
        importlib.import_module(f"tests.fundamentals.documented.{each.stem}")


def methods(kind: type) -> set[str]:
    """Return the public methods of a class of NVFlare's."""
    return {f"{kind.__name__}.{name}" for name in vars(kind) if not name.startswith("_") and callable(vars(kind)[name])}


@pytest.mark.parametrize("kind", [IPCAgent, ClientEngine, WFCommSpec], ids=lambda kind: kind.__name__)
def test_every_method_has_a_sentence(kind: Any) -> None:
    assert methods(kind) - sentences.MEMBERS == set()


def constants(scope: Any, prefix: str) -> set[str]:
    """Return the public constants of a module or a class of NVFlare's."""
    return {
        f"{prefix}.{name}" for name, value in vars(scope).items() if name.isupper() and isinstance(value, str | int)
    }


def test_every_definition_has_a_sentence() -> None:
    public = {name: value for name, value in vars(defs).items() if not name.startswith("_") and value is not FQCN}
    wanted = {f"defs.{name}" for name in public}
    for name in ("MsgHeader", "PayloadKey", "MetaKey", "Task"):
        wanted |= constants(public[name], f"defs.{name}")
    assert wanted - sentences.MEMBERS == set()
    assert {"defs.CHANNEL", "defs.MetaKey.DATA_KIND", "defs.TaskResult"} <= wanted


def test_every_difference_has_its_row_on_the_page() -> None:
    assert sentences.ROWS - set(differences()) == set()
