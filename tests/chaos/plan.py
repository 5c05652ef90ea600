"""Faults of a soak, with their targets and moments: a sequence that follows from the seed alone."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

#: Kinds of injections, and what each does.
KINDS: Final = {
    "kill agent": "SIGKILL; another is started",
    "stop agent": "stopped by itself; another is started",
    "replace agent": "a second of the same name is started beside it",
    "freeze agent": "SIGSTOP, and SIGCONT later",
    "kill CJ": "SIGKILL; another is started and asks for the same task",
    "replace CJ": "a second is started beside it and asks for the same task",
    "freeze CJ": "SIGSTOP, and SIGCONT later",
    "abort task": "the CJ aborts its task",
    "crash server": "SIGKILL, and a start with what its append-only file holds",
    "freeze server": "SIGSTOP for longer than the socket timeout, and SIGCONT",
    "kill connections": "the server closes all that it has",
    "cut cable": "the agents' connections are closed, and new ones refused for a while",
    "swallow": "the agents' connections swallow everything for a while",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Injection:
    """One thing that goes wrong."""

    #: after so many outcomes of tasks
    at: int
    kind: str
    #: number of the pair of agent and CJ that it hits, where it hits one
    pair: int
    #: seconds until it is over, where it lasts
    seconds: float

    def __str__(self) -> str:
        return f"after {self.at}: {self.kind} {self.pair} ({self.seconds:.2f} s)"


def plan(seed: int, tasks: int, pairs: int, injections: int) -> list[Injection]:
    """All injections of a run, in order; every kind has its turn before one comes again."""
    dice = random.Random(seed)
    moments = sorted(dice.randrange(tasks) for _ in range(injections))
    kinds: list[str] = []
    while len(kinds) < injections:
        kinds += dice.sample(list(KINDS), len(KINDS))
    return [
        Injection(at=at, kind=kind, pair=dice.randrange(pairs), seconds=dice.uniform(0.6, 1.2))
        for at, kind in zip(moments, kinds, strict=False)
    ]
