"""Set up every test: Python's own signal handlers, a server shared by the whole run, a namespace per test."""

from __future__ import annotations

import signal
import uuid
from collections.abc import Iterator

import pytest
from redflare_broker.embedded.server import EmbeddedServer

#: As Python sets them in a program that was started from a terminal.
_USUAL_HANDLERS = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGCHLD: signal.SIG_DFL,
    signal.SIGPIPE: signal.SIG_IGN,
}


def pytest_configure() -> None:
    """Undo what this process has inherited: a shell's background job ignores SIGINT, a supervisor may ignore SIGCHLD.

    Runs in pytest-xdist's workers, too.
    """
    for number, handler in _USUAL_HANDLERS.items():
        signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _USUAL_HANDLERS)


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """URL of an embedded server that all tests of a process share; use ``namespace`` in it, never stop or flush it."""
    with EmbeddedServer() as server:
        yield server.url


@pytest.fixture
def namespace() -> str:
    """A namespace that no other test uses."""
    return f"t{uuid.uuid4().hex[:12]}"
