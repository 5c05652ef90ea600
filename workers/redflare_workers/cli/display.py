"""Output in the terminal and as JSON: the console, colours of states, tables that fit 80 columns."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Final

import orjson
import typer
from redflare_broker.util import humanize
from redflare_broker.util.visible import hidden_places, visible, visible_json
from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.padding import Padding
from rich.segment import Segment
from rich.table import Table
from rich.text import Span, Text

if TYPE_CHECKING:
    from redflare_broker.inspection.presence import Presence, PresenceState

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_SYMBOLS: Final[dict[PresenceState, tuple[str, str]]] = {
    "connected": ("●", "green"),
    "silent": ("◐", "yellow"),
    "gone": ("○", "red"),
    "left": ("○", "dim"),
    "never": ("·", "dim"),
}
_STATUS_STYLES: Final = {
    "NEW": "yellow",
    "FETCHED": "cyan",
    "SUBMITTED": "blue",
    "ACCEPTED": "green",
    "REJECTED": "red",
    "ABORTED": "magenta",
    # statuses of jobs, those at the end without FINISHED:
    "APPROVED": "yellow",
    "DISPATCHED": "yellow",
    "COMPLETED": "green",
    "EXECUTION_EXCEPTION": "red",
    "ABNORMAL": "red",
    "CAN_NOT_SCHEDULE": "red",
    "FAILED_TO_RUN": "red",
    "RUNNING": "cyan",
    # statuses of their tasks
    "ok": "green",
    "timeout": "red",
    "error": "red",
    "client_dead": "red",
    "cancelled": "magenta",
    "aborted": "magenta",
}


#: Columns of a file or a pipe: more than any line has.
_UNCUT: Final = 100_000


class _VisibleConsole(Console):
    """Shows what others wrote, instead of obeying it: neither control codes nor rich's markup."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        shown = _visible_text(renderable) if isinstance(renderable, Text) else renderable
        for segment in super().render(shown, options):
            # what rich itself writes as control codes, such as the moves of a live table, is marked as such
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


def _visible_text(text: Text) -> Text:
    """Return the same with all hidden letters escaped, before it is laid out, so that it fits its place."""
    places = hidden_places(text.plain)
    if not places:
        return text
    shown = text.blank_copy()
    for part in text.divide(sorted({cut for at in places for cut in (at, at + 1)})):
        escaped = visible(part.plain)
        spans = [Span(0, len(escaped), span.style) for span in part.spans]
        shown.append_text(part if escaped == part.plain else Text(escaped, spans=spans))
    return shown


def console(*, stderr: bool = False, width: int | None = None) -> Console:
    """Return a console on standard output or error, as it is now, for text that may come from others."""
    return _VisibleConsole(highlight=False, markup=False, emoji=False, stderr=stderr, width=width)


def has_width() -> bool:
    """Whether lines have to fit something: a terminal, or COLUMNS; not a file or a pipe, in which nothing is cut."""
    return console().is_terminal or "COLUMNS" in os.environ


def say(text: str, *, err: bool = False) -> None:
    """Print a line of text as it is, but visibly."""
    typer.echo(visible(text), err=err)


def print_json(value: object, *, lines: bool = False) -> None:
    """Print a JSON document, indented, or with ``lines`` on one line."""
    option = 0 if lines else orjson.OPT_INDENT_2
    typer.echo(visible_json(orjson.dumps(value, option=option).decode()))


def output(document: object, text: RenderableType, *, as_json: bool, lines: bool = False) -> None:
    """Print a JSON document as ``print_json`` does, or what it says: a text, which is not wrapped, or tables."""
    if as_json:
        print_json(document, lines=lines)
    elif isinstance(text, str):
        say(text)
    else:
        console().print(text, soft_wrap=isinstance(text, Text))


def table(*headers: str) -> Table:
    """Return a light table; text that is too long is folded, never cut."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), header_style="bold", show_edge=False)
    for header in headers:
        table.add_column(header, overflow="fold")
    return table


def one_line_table(*columns: tuple[str, int], rest: str) -> Table:
    """Return a light table with one line for each row; what is too long is cut where lines have a width.

    Args:
        columns: headers, each with its widest cell where the terminal has 80 columns.
        rest: header of the last column, which gets the rest of the line.
    """
    made = table()
    made.expand, made.padding = has_width(), (0, 1, 0, 0)
    wide = console().width / 80
    for header, widest in columns:
        most = round(widest * wide) if made.expand else None
        made.add_column(header, overflow="ellipsis", no_wrap=True, max_width=most)
    made.add_column(rest, overflow="ellipsis", no_wrap=True, ratio=1 if made.expand else None)
    return made


def print_lines(lines: RenderableType) -> None:
    """Print what has a line for each thing, whole lines where they have no width to fit."""
    shown = console() if has_width() else console(width=_UNCUT)
    shown.print(lines)


def facts() -> Table:
    """Names and values, without lines."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column(overflow="fold")
    return grid


def timeline(events: Sequence[tuple[int, *tuple[Text | str, ...]]], *, digits: int) -> Table:
    """Events, each with its time in ms and texts; shows their times, and the seconds since the one before."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(style="dim", justify="right", no_wrap=True)
    for _ in range(len(events[0]) - 2) if events else ():
        table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    before = 0
    for at, *texts in events:
        later = f"+{(at - before) / 1000:.{digits}f} s" if before else ""
        table.add_row(clock(at, day=not before), later, *texts)
        before = at
    return table


def presence(side: Presence) -> Text:
    """Return a state with the age of the last heartbeat: "● connected 2 s"."""
    symbol, style = _SYMBOLS[side.state]
    text = Text.assemble((f"{symbol} {side.state}", style))
    if side.beat_age is not None and side.state != "left":
        text.append(f" {humanize.age(side.beat_age)}", style="dim" if side.connected else style)
    return text


def indented(text: Text | str, by: int = 2) -> Padding:
    """Return a text below a heading."""
    return Padding(Text(text) if isinstance(text, str) else text, (0, 0, 0, by))


def status(text: str) -> Text:
    """Return a text that begins with a status, in the colour of this status."""
    first, separator, rest = text.partition(" ")
    return Text.assemble((first, _STATUS_STYLES.get(first.removeprefix("FINISHED:"), "")), separator + rest)


def clock(ms: int, *, day: bool = False) -> str:
    """Return a time in the local time zone: "10:15:02.123"."""
    local = humanize.moment(ms).astimezone()
    return local.strftime("%Y-%m-%d %H:%M:%S." if day else "%H:%M:%S.") + f"{ms % 1000:03d}"
