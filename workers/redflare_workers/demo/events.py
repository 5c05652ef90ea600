"""What happens in the demo, as values: the watched processes report, the display shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class SiteActivity(StrEnum):
    """What a site is doing."""

    STARTING = "starting"
    WAITING = "waiting"
    TRAINING = "training"
    KILLED = "killed"  # by the demo, on purpose
    DIED = "died"  # by itself
    DONE = "done"


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteChanged:
    """A site's agent process began something, or ended."""

    site: str
    state: SiteActivity
    round_number: int  #: 0: before the first task
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteAnswered:
    """A site's result of this round is in the server's hands."""

    site: str
    round_number: int
    loss: float  #: mean over the round's mini-batches of the site's own data
    accuracy: float  #: of the site's own weights on the held-out data, before they are averaged
    seconds: float  #: from the assignment to the result in hand


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundEnded:
    """The results of all sites are averaged."""

    round_number: int
    loss: float  #: the sites' losses, weighted like their models
    accuracy: float  #: of the federated model on the held-out data
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class JobProcessEnded:
    """The server or the client jobs ended, and are started again."""

    name: str
    pid: int
    round_number: int  #: the latest it has told of
    killed: bool  #: by the demo, on purpose


@dataclass(frozen=True, slots=True)
class Trained:
    """The rounds are over, and the model is in its file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonBegan:
    """Training for one line of the comparison begins."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Signalled:
    """The demo itself was told to stop."""

    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The demo cannot go on."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class Finished:
    """Everything is trained."""


Event = (
    SiteChanged
    | SiteAnswered
    | RoundEnded
    | JobProcessEnded
    | Trained
    | ComparisonBegan
    | Signalled
    | Failed
    | Finished
)

Emit = Callable[[Event], None]
