"""Events of the demo: reported by the watched processes, shown by the display."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from redflare_workers.util.signals import Signalled


class SiteActivity(StrEnum):
    """Activities of a site, as the display shows them."""

    STARTING = "starting"
    WAITING = "waiting"
    TRAINING = "training"
    KILLED = "killed"  # by the demo, on purpose
    DIED = "died"  # by itself
    DONE = "done"


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteChanged:
    """The agent process of a site has started something, or has ended."""

    site: str
    state: SiteActivity
    round_number: int  #: 0: before the first task
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteAnswered:
    """The server has received a site's result of this round."""

    site: str
    round_number: int
    loss: float  #: mean over the round's mini-batches of the site's own data
    accuracy: float  #: of the site's own weights on the held-out data, before they are averaged
    seconds: float  #: from the assignment of the task to its result


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundEnded:
    """The results of all sites are averaged."""

    round_number: int
    loss: float  #: the sites' losses, weighted like their models
    accuracy: float  #: of the federated model on the held-out data
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class JobProcessEnded:
    """The server or the client jobs have ended, and are started again."""

    name: str
    pid: int
    round_number: int  #: the latest that it has reported
    killed: bool  #: by the demo, on purpose


@dataclass(frozen=True, slots=True)
class Trained:
    """All rounds are done, and the model is in its file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonBegan:
    """Training for one row of the comparison begins."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The demo cannot continue."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class Finished:
    """All trainings are done."""


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
