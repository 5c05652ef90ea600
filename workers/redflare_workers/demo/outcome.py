"""The results of the demo: accuracy curves to compare, how they were made, and their picture."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

FEDERATED = "federated"
POOLED = "all data together"


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """The accuracy on the held-out images after each round of one training."""

    name: str
    images: int  #: number that it was trained on
    digits: list[int]  #: number of these images by digit
    accuracy: list[float]

    @property
    def final(self) -> float:
        """Accuracy at the end."""
        return self.accuracy[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOutcome:
    """The results that are shown at the end."""

    seed: int
    rounds: int
    steps: int  #: of every training, and of each site in the federation
    held_out: int  #: number of images that accuracy is measured on
    federated: Curve
    alone: list[Curve]  #: one per site
    pooled: Curve
    sha256: str  #: over every bit of the federated model
    kills: int  #: agents that were killed in the middle of a round
    server_kills: int  #: times that the server was killed
    seconds: float
    plot: str  #: path of the PNG

    def write(self, path: Path) -> None:
        """Write all of it as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")


def draw(outcome: DemoOutcome) -> None:
    """Write the picture, held-out accuracy per round of every training, as a PNG to ``outcome.plot``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import, and needed only here
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 5.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    rounds = range(1, outcome.rounds + 1)
    for number, curve in enumerate(outcome.alone):
        axes.plot(rounds, curve.accuracy, color=f"C{number + 1}", linewidth=1.3, label=_label(curve))
    axes.plot(
        rounds, outcome.pooled.accuracy, color="black", linestyle="--", linewidth=1.6, label=_label(outcome.pooled)
    )
    axes.plot(rounds, outcome.federated.accuracy, color="C0", linewidth=3.2, label=_label(outcome.federated))
    axes.set(xlabel="round", ylabel=f"accuracy on {outcome.held_out} held-out images", ylim=(0, 1.02))
    axes.set_xlim(1, max(outcome.rounds, 2))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_title(f"Handwritten digits at {len(outcome.alone)} sites: alone, federated, and {POOLED}", loc="left")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    final = [curve.final for curve in (*outcome.alone, outcome.pooled, outcome.federated)]  # in the order of drawing
    best_first = sorted(range(len(labels)), key=lambda n: -final[n])
    axes.legend([handles[n] for n in best_first], [labels[n] for n in best_first], loc="lower right", frameon=True)
    path = Path(outcome.plot)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _label(curve: Curve) -> str:
    return f"{curve.final:6.1%}  {curve.name} ({curve.images} images)"
