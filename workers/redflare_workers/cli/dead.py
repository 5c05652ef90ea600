"""``redflare dead``: list, show, replay, drop."""

from __future__ import annotations

from typing import Annotated, NoReturn

import typer
from redflare_broker.link.dead_letters import DeadLetter, text
from redflare_broker.util import humanize
from rich.table import Table
from rich.text import Text

from . import display
from .connection import Target, connected
from .exit_codes import EXIT_CODES, NOT_FOUND, USAGE, fail

app = typer.Typer(
    add_completion=False,
    help="Dead letters: messages that could not be read, kept with the reason.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode="rich",
)

Agent = Annotated[str, typer.Argument(help="Full name (FQCN) of the agent: site-1--trainer.", show_default=False)]
LetterId = Annotated[str, typer.Argument(help="The letter's id, as `redflare dead list` shows it.", show_default=False)]

#: Bytes of a field's value that `show` prints.
_LONGEST = 400


@app.command("list", epilog=EXIT_CODES)
@connected
def list_letters(
    target: Target,
    agent: Annotated[
        str | None, typer.Option("--agent", "-a", help="Full name (FQCN) of the agent; default: all.")
    ] = None,
    as_json: display.Json = False,
) -> None:
    """List all dead letters, the oldest first; exit code 1 if there are none.

    [bold]Examples[/bold]
    redflare dead list
    redflare dead list --agent site-1--trainer --json | jq -r '.[].reason'
    """
    inspector = target.inspector
    letters = inspector.dead_letters(agent).all() if agent else inspector.all_dead_letters()
    if as_json:
        display.print_json([letter.to_json() for letter in letters])
    elif letters:
        now = {fqcn: inspector.now(fqcn) for fqcn in {letter.fqcn for letter in letters}}
        table = display.table("Agent and letter", "Buried", "From", "Reason")
        for letter in letters:
            name = Text.assemble((letter.fqcn, "bold"), "\n", letter.id)
            age = f"{humanize.age((now[letter.fqcn] - letter.time_ms) / 1000)} ago"
            table.add_row(name, age, letter.stream.partition("}:")[2] or "?", Text(letter.reason))
        display.console().print(table)
    else:
        display.say("no dead letters")
    if not letters:
        raise typer.Exit(NOT_FOUND)


@app.command("show", epilog=EXIT_CODES)
@connected
def show(target: Target, fqcn: Agent, letter_id: LetterId, as_json: display.Json = False) -> None:
    """Show one dead letter with all its fields; long values are cut, except with --json.

    [bold]Example[/bold]
    redflare dead show site-1--trainer 1763806515432-0
    """
    letter = target.inspector.dead_letters(fqcn).get(letter_id)
    if letter is None:
        _not_found(fqcn, letter_id)
    if as_json:
        display.print_json(letter.to_json())
        return
    console = display.console()
    console.print(
        Text.assemble((letter.fqcn, "bold"), f"  {letter.id}  buried {display.clock(letter.time_ms, day=True)}")
    )
    console.print(Text(letter.reason, style="red"))
    cut = ", truncated" if letter.truncated else ""
    console.print(
        Text(f"from {letter.stream}, entry {letter.entry}, {humanize.size(letter.nbytes)}{cut}\n", style="dim")
    )
    fields = Table.grid(padding=(0, 2))
    fields.add_column(style="cyan", overflow="fold")
    fields.add_column(overflow="fold")
    for name, value in letter.fields:
        rest = f" … {humanize.size(len(value) - _LONGEST)} more" if len(value) > _LONGEST else ""
        fields.add_row(Text(text(name)), Text(text(value[:_LONGEST]) + rest))
    console.print(fields)


@app.command("replay", epilog=EXIT_CODES)
@connected
def replay(target: Target, fqcn: Agent, letter_id: LetterId, as_json: display.Json = False) -> None:
    """Put a dead letter back into its stream, to be read again.

    Useful if its reader was at fault (an older version, for example), has been
    replaced since, and the task is still open. A letter that still cannot be
    read is buried again, and so is one whose task is settled or unknown. A
    letter that was truncated when it was buried cannot be replayed.

    [bold]Example[/bold]
    redflare dead replay site-1--trainer 1763806515432-0
    """
    letters = target.inspector.dead_letters(fqcn)
    letter = letters.get(letter_id)
    replay = letters.replay(letter_id)
    if as_json:
        display.print_json(replay.to_json())
    if letter is None or replay.outcome == "GONE":
        _not_found(fqcn, letter_id)
    if replay.outcome == "TRUNCATED":
        fail(f"dead letter {letter_id} was truncated and cannot be replayed: send the task again", NOT_FOUND)
    if replay.outcome == "FOREIGN":
        fail(f"dead letter {letter_id} does not come from a stream of {fqcn} and cannot be replayed", NOT_FOUND)
    if not as_json:
        display.say(f"{letter_id} is back in {replay.stream} as {replay.entry}")
        display.say(_prospect(target, letter))


@app.command("drop", epilog=EXIT_CODES)
@connected
def drop(
    target: Target,
    fqcn: Agent,
    letter_ids: Annotated[list[str] | None, typer.Argument(help="The letters' ids.", show_default=False)] = None,
    everything: Annotated[bool, typer.Option("--all", help="Drop all dead letters of this agent.")] = False,
    as_json: display.Json = False,
) -> None:
    """Delete dead letters.

    [bold]Examples[/bold]
    redflare dead drop site-1--trainer 1763806515432-0
    redflare dead drop site-1--trainer --all
    """
    if bool(letter_ids) == everything:
        fail("give either the ids of letters or --all", USAGE)
    letters = target.inspector.dead_letters(fqcn)
    count = letters.drop_all() if everything else letters.drop(letter_ids or [])
    display.output({"dropped": count}, f"{count} dropped", as_json=as_json)
    if not count:
        raise typer.Exit(NOT_FOUND)


def _not_found(fqcn: str, letter_id: str) -> NoReturn:
    fail(f"no dead letter {letter_id} of {fqcn}: `redflare dead list` shows all dead letters", NOT_FOUND)


def _prospect(target: Target, letter: DeadLetter) -> str:
    """Predict what the reader does with a replayed letter, from the ledger of its task."""
    if not letter.task_id:
        return "it names no task: its reader will probably bury it again"
    task = target.inspector.ledger(letter.fqcn, letter.task_id)
    if task is None:
        return f"but its task {letter.task_id} is unknown: its reader will bury it again"
    if task.is_settled:
        return f"but its task {letter.task_id} is {task.status}: its reader will bury it again"
    return f"its task {letter.task_id} is {task.status}; follow it with `redflare tail {letter.fqcn}`"
