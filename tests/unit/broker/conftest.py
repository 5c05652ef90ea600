"""Run every test of the steps twice: as scripts, and as functions that were loaded."""

from __future__ import annotations

import pytest
from redflare_broker.transport.url import ConnectionOptions


@pytest.fixture(params=[False, True], ids=["scripts", "functions"])
def options(request: pytest.FixtureRequest) -> ConnectionOptions:
    """How the steps are called."""
    return ConnectionOptions(functions=request.param)
