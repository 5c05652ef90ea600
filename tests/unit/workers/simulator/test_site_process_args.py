"""The arguments of a process with sites, and functions that cannot be sent to it."""

from __future__ import annotations

import io
import sys
import types
from typing import Any

import pytest
from redflare_broker.config.settings import LinkSettings
from redflare_broker.errors import ConfigError
from redflare_workers.simulator.site_process_args import PROGRAM, SiteProcessArgs, check_not_importing, unpack

from tests.programs.simulated import train


def args_of(function: Any) -> SiteProcessArgs:
    return SiteProcessArgs(
        name="simulator-1",
        url="redis://:secret@host",
        job_id="job",
        sites=("site-1",),
        settings=LinkSettings(heartbeat_interval=1.5),
        train=function,
    )


def test_unpacked_arguments_equal_the_packed_ones() -> None:
    arguments, paths = sys.argv, sys.path
    source = io.BytesIO(args_of(train).pack())
    try:
        assert unpack(source) == args_of(train)
    finally:
        sys.argv, sys.path = arguments, paths
    assert source.read() == b"", "what follows is the lifeline"


def test_a_function_that_cannot_be_imported_is_refused_with_a_remedy() -> None:
    def local(task: Any, site: str) -> Any:
        return train(task, site)

    with pytest.raises(ConfigError, match=r"cannot be handed to other processes.*processes=0"):
        args_of(local).pack()


def test_a_function_of_a_notebook_is_refused_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = types.ModuleType("__main__")
    exec("def train(task, site): ...", notebook.__dict__)
    monkeypatch.setitem(sys.modules, "__main__", notebook)
    with pytest.raises(ConfigError, match=r"of a notebook or a prompt.*processes=0"):
        args_of(notebook.train).pack()


def test_a_process_that_is_importing_the_program_may_not_simulate(monkeypatch: pytest.MonkeyPatch) -> None:
    check_not_importing()
    program = types.ModuleType("__main__")
    program.__spec__ = types.SimpleNamespace(name=PROGRAM)  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "__main__", program)
    with pytest.raises(ConfigError, match='below `if __name__ == "__main__":`'):
        check_not_importing()
