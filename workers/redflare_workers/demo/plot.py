"""The picture: held-out accuracy per round of the federated model, of each site alone, and of all data together."""

from __future__ import annotations

from pathlib import Path

from .outcome import POOLED, Curve, DemoOutcome


def draw(outcome: DemoOutcome) -> None:
    """Write the PNG to ``outcome.plot``."""
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
    best_first = sorted(range(len(labels)), key=lambda n: -_final(outcome)[n])
    axes.legend([handles[n] for n in best_first], [labels[n] for n in best_first], loc="lower right", frameon=True)
    path = Path(outcome.plot)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _final(outcome: DemoOutcome) -> list[float]:
    """Return the final accuracies in the order of drawing."""
    return [curve.final for curve in (*outcome.alone, outcome.pooled, outcome.federated)]


def _label(curve: Curve) -> str:
    return f"{curve.final:6.1%}  {curve.name} ({curve.images} images)"
