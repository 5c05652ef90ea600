"""Faults of a soak, with their targets and moments: a sequence that follows from the seed alone."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

#: Kinds of injections, and what each does.
KINDS: Final = {
    "kill agent": "SIGKILL; another is started",
    "stop agent": "ends properly; another is started",
    "replace agent": "a second of the same name is started beside it",
    "freeze agent": "SIGSTOP, and SIGCONT later",
    "kill CJ": "SIGKILL; another is started and asks for the same task",
    "replace CJ": "a second is started beside it and asks for the same task",
    "freeze CJ": "SIGSTOP, and SIGCONT later",
    "abort task": "the CJ aborts its task",
    "crash server": "SIGKILL, and a restart from its append-only file",
    "freeze server": "SIGSTOP for longer than the socket timeout, and SIGCONT",
    "kill connections": "the server closes all its connections",
    "cut cable": "the agents' connections are closed, and new ones refused for a while",
    "swallow": "the agents' connections drop all data for a while",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Injection:
    """One fault."""

    #: number of ended tasks after which it is injected
    at: int
    kind: str
    #: number of the link that it hits, if it hits one
    link: int
    #: seconds until it ends, if it lasts
    seconds: float

    def __str__(self) -> str:
        return f"after {self.at}: {self.kind} {self.link} ({self.seconds:.2f} s)"


def plan(seed: int, tasks: int, links: int, injections: int) -> list[Injection]:
    """All injections of a run, in order; each kind occurs once before any occurs again."""
    rng = random.Random(seed)
    positions = sorted(rng.randrange(tasks) for _ in range(injections))
    kinds: list[str] = []
    while len(kinds) < injections:
        kinds += rng.sample(list(KINDS), len(KINDS))
    return [
        Injection(at=at, kind=kind, link=rng.randrange(links), seconds=rng.uniform(0.6, 1.2))
        for at, kind in zip(positions, kinds, strict=False)
    ]
