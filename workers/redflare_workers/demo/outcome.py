"""What the demo found out: the curves to compare, and what it took."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

FEDERATED = "federated"
POOLED = "all data together"


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One way of training, measured on the held-out data after each round."""

    name: str
    images: int  #: it has learnt from
    digits: list[int]  #: how many of them show each digit
    accuracy: list[float]

    @property
    def final(self) -> float:
        """Accuracy at the end."""
        return self.accuracy[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOutcome:
    """Everything there is to show at the end."""

    seed: int
    rounds: int
    steps: int  #: that every training took, one site's share in the federation included
    held_out: int  #: images that accuracy is measured on
    federated: Curve
    alone: list[Curve]  #: one per site
    pooled: Curve
    sha256: str  #: over every bit of the federated model
    kills: int  #: agents that were killed in the middle of a round
    server_kills: int  #: times that the server was
    seconds: float
    plot: str  #: path of the PNG

    def write(self, path: Path) -> None:
        """Write all of it as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")
