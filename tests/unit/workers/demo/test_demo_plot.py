"""The plot at the end of the demo."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image
from redflare_workers.demo.outcome import Curve, DemoOutcome, draw


def outcome(path: Path, rounds: int) -> DemoOutcome:
    def curve(name: str, top: float) -> Curve:
        return Curve(name=name, images=100, digits=[10] * 10, accuracy=[top * (n + 1) / rounds for n in range(rounds)])

    return DemoOutcome(
        seed=7,
        rounds=rounds,
        steps=60 * rounds,
        held_out=450,
        federated=curve("federated", 0.95),
        alone=[curve("site-1 alone", 0.6), curve("site-2 alone", 0.7)],
        pooled=curve("all data together", 0.96),
        sha256="0" * 64,
        kills=0,
        server_kills=0,
        seconds=1.0,
        plot=str(path),
    )


def test_the_plot_is_a_png_with_something_on_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "accuracy.png"
    draw(outcome(path, 5))
    with Image.open(path) as picture:
        picture.verify()
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.width >= 800
        assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 50


def test_a_single_round_can_be_drawn(tmp_path: Path) -> None:
    draw(outcome(tmp_path / "one.png", 1))
    assert (tmp_path / "one.png").stat().st_size > 1000


def test_the_outcome_can_be_read_back_as_json(tmp_path: Path) -> None:
    outcome(tmp_path / "plot.png", 2).write(tmp_path / "sub" / "numbers.json")
    numbers = json.loads((tmp_path / "sub" / "numbers.json").read_text())
    assert numbers["federated"]["accuracy"] == [0.475, 0.95]
    assert [curve["name"] for curve in numbers["alone"]] == ["site-1 alone", "site-2 alone"]
