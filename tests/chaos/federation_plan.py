"""Deaths of a federation's processes, and cuts of its connections: a sequence that follows from the seed alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.programs.child_pipe import Death

SERVER: Final = "server"


@dataclass(frozen=True, slots=True, kw_only=True)
class FederationPlan:
    """All faults of a run."""

    #: By slot, the points at which its successive processes die; the process after the last death lives.
    deaths: dict[str, list[Death]] = field(default_factory=dict)
    #: By number of results received, for how many seconds the connections are cut.
    cuts: dict[int, float] = field(default_factory=dict)


def slots(sites: Sequence[str]) -> list[str]:
    """The server, and each site's client job and trainer."""
    return [SERVER, *(f"{kind} of {site}" for site in sites for kind in ("cj", "trainer"))]


def plan(seed: int, sites: Sequence[str], deaths: int, cuts: int, results: int) -> FederationPlan:
    """``deaths`` of the server, as many of the client jobs together and of the trainers together, and ``cuts``."""
    rng = random.Random(seed)
    found: dict[str, list[Death]] = {slot: [] for slot in slots(sites)}
    for _ in range(deaths):
        for kind in (SERVER, "cj", "trainer"):
            slot = SERVER if kind == SERVER else f"{kind} of {rng.choice(sites)}"
            # a successor begins anew, so a process that must do some work must not die at once every time
            found[slot].append(Death(rng.randrange(1, 40 if kind == SERVER else 30), rng.random() < 0.5))
    positions = rng.sample(range(1, results), cuts)
    return FederationPlan(deaths=found, cuts={moment: rng.uniform(0.1, 1.0) for moment in positions})
