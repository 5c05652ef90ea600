"""The command against a fake Redis."""

from __future__ import annotations

import pytest

from tests.support.process.cli import Cli


@pytest.fixture
def cli() -> Cli:
    return Cli()
