"""The results of the demo: accuracy curves to compare, and how they were made."""

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
