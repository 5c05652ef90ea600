"""How things look in the terminal: one console, colours of states, tables that fit 80 columns."""

from __future__ import annotations

from typing import Annotated, Final, Protocol

import orjson
import typer
from redflare_broker.inspection.job_view import JobView
from redflare_broker.inspection.presence import PresenceState
from redflare_broker.util import humanize
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

#: The option of every command that programs call.
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of a table for people.")]

_MARKS: Final[dict[PresenceState, tuple[str, str]]] = {
    "connected": ("●", "green"),
    "silent": ("◐", "yellow"),
    "gone": ("○", "red"),
    "left": ("○", "dim"),
    "never": ("·", "dim"),
}
STATUS_STYLES: Final = {
    "NEW": "yellow",
    "FETCHED": "cyan",
    "SUBMITTED": "blue",
    "ACCEPTED": "green",
    "REJECTED": "red",
    "ABORTED": "magenta",
    # of jobs
    "APPROVED": "yellow",
    "DISPATCHED": "yellow",
    "COMPLETED": "green",
    "EXECUTION_EXCEPTION": "red",
    "ABNORMAL": "red",
    "CAN_NOT_SCHEDULE": "red",
    "FAILED_TO_RUN": "red",
    "FINISHED:ABNORMAL": "red",
    "FINISHED:CAN_NOT_SCHEDULE": "red",
    "FINISHED:FAILED_TO_RUN": "red",
    "RUNNING": "cyan",
    "FINISHED:COMPLETED": "green",
    "FINISHED:ABORTED": "magenta",
    "FINISHED:EXECUTION_EXCEPTION": "red",
    # of their tasks
    "ok": "green",
    "timeout": "red",
    "error": "red",
    "client_dead": "red",
    "cancelled": "magenta",
    "aborted": "magenta",
}


class Present(Protocol):
    """A side of a link, the server of a job, or a site of it."""

    @property
    def state(self) -> PresenceState: ...

    @property
    def beat_age(self) -> float | None: ...

    @property
    def connected(self) -> bool: ...


def console() -> Console:
    """A console on the standard output of this moment."""
    return Console(highlight=False)


def print_json(value: object, *, lines: bool = False) -> None:
    """One JSON document; with ``lines`` on one line, sent on at once."""
    option = 0 if lines else orjson.OPT_INDENT_2
    typer.echo(orjson.dumps(value, option=option).decode())


def table(*headers: str) -> Table:
    """A light table; text that is too long is folded, never cut."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), header_style="bold", show_edge=False)
    for header in headers:
        made.add_column(header, overflow="fold")
    return made


def side(presence: Present) -> Text:
    """Somebody's state with the age of its last beat: "● connected, 2 s ago"."""
    mark, style = _MARKS[presence.state]
    said = Text.assemble((f"{mark} {presence.state}", style))
    if presence.beat_age is not None and presence.state != "left":
        said.append(f" {humanize.age(presence.beat_age)}", style="dim" if presence.connected else style)
    return said


def status(text: str) -> Text:
    """Words about a task whose first one is its status, coloured by it."""
    word, separator, rest = text.partition(" ")
    return Text.assemble((word, STATUS_STYLES.get(word, "")), separator + rest)


def clock(ms: int, *, day: bool = False) -> str:
    """A moment in the local time of whoever looks: "10:15:02.123"."""
    local = humanize.moment(ms).astimezone()
    return local.strftime("%Y-%m-%d %H:%M:%S." if day else "%H:%M:%S.") + f"{ms % 1000:03d}"


def job_line(job: JobView) -> Text:
    """A job and what it waits for, unless its tasks say that: "job server.job-7  RUNNING for 3 min: waits for ..."."""
    said = job.waiting
    if job.runs:
        known = bool(job.tasks) and job.server.connected and job.connected
        said = f"{job.status or 'NEW'} for {humanize.age(job.age)}" + ("" if known else f": {said}")
    return Text.assemble("job ", (job.fqcn, "bold"), "  ", status(said))
