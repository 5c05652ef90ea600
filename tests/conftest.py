"""Set up every test: Python's own signal handlers, a server shared by the whole run, a namespace per test."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from redflare_broker.embedded.server import EmbeddedServer

from tests.support.paths import ROOT

#: As Python sets them in a program that was started from a terminal.
_USUAL_HANDLERS: dict[signal.Signals, Any] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGCHLD: signal.SIG_DFL,
    signal.SIGPIPE: signal.SIG_IGN,
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--serial",
        choices=["with", "without", "only"],
        default="with",
        help="tests that are marked as serial: run them with all others (default), leave them out, or run only them",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Choose by ``--serial``, so that ``-m`` remains free for the caller of pytest."""
    if (choice := config.getoption("--serial")) == "with":
        return
    chosen = [item for item in items if (item.get_closest_marker("serial") is not None) == (choice == "only")]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(chosen)])
    items[:] = chosen


def pytest_configure() -> None:
    """Undo what this process has inherited: a shell's background job ignores SIGINT, a supervisor may ignore SIGCHLD.

    Runs in pytest-xdist's workers, too.
    """
    for number, handler in _USUAL_HANDLERS.items():
        signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _USUAL_HANDLERS)
    # hundreds of processes import modules that were compiled once, and write no bytecode into folders that tests check
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(ROOT / ".pytest_cache" / "bytecode")


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """URL of an embedded server that all tests of a process share; use ``namespace`` in it, never stop or flush it."""
    with EmbeddedServer() as server:
        yield server.url


@pytest.fixture
def namespace() -> str:
    """A namespace that no other test uses."""
    return f"t{uuid.uuid4().hex[:12]}"
