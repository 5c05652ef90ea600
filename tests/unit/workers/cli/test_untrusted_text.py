"""What others wrote is shown by every command, and obeyed by no terminal."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator

import pytest
import typer
from redflare_broker.job_store.record import APPROVED, CAN_NOT_SCHEDULE, SUBMITTED
from redflare_broker.job_store.store import JobStore
from redflare_broker.keys import Keys
from redflare_broker.transport.server import Server
from redflare_workers.cli import display
from redflare_workers.cli.job_lookup import complete_job
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text
from typer.core import TyperCommand

from tests.support.link.steps import LinkSteps
from tests.support.process.cli import Cli

EVIL = "\x1b]0;owned\x07 \x1b[2J \x9b31m \x7f \u202egpj.exe\u2066 [red]not markup[/red] :boom:"
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
TASK = "3f0c2a52-5c1d-4b1e-9d8e-0d8a1f6a7b11"


@pytest.fixture
def cli() -> Iterator[Cli]:
    """A federation in which all text is of somebody who means harm."""
    made = Cli()
    with Server.connect(client=made.client) as server:
        store = JobStore(server, Keys().store())
        store.submit({"name": EVIL}, b"a", "waiting", submitter=EVIL)
        store.set_waiting("waiting", EVIL)
        store.append_log("waiting", "site-1", [EVIL])
        store.submit({"name": EVIL}, b"a", "over", submitter=EVIL)
        store.set_site("over", "site-1", "stopped", exit_code=1, reason=EVIL)
        store.advance("over", SUBMITTED, APPROVED, EVIL, by=EVIL)
        store.advance("over", APPROVED, CAN_NOT_SCHEDULE, EVIL, by=EVIL)
        link = LinkSteps(server)
        link.both()
        link.assign(TASK, EVIL)
        link.bury(link.keys.tasks, EVIL, "field", EVIL)
        yield made


def letter_of(cli: Cli) -> str:
    return str(json.loads(cli("dead", "list", "--json").stdout)[0]["id"])


COMMANDS = (
    ("status",),
    ("task", TASK),
    ("dead", "list"),
    ("dead", "show", "site-1--trainer", "<letter>"),
    ("job", "list"),
    ("job", "show", "waiting"),
    ("job", "show", "over"),
    ("job", "log", "waiting"),
    ("job", "log", "over"),
    ("job", "abort", "over"),
    ("job", "abort", "waiting", "--reason", EVIL),
    ("job", "delete", EVIL),
    ("job", "show", EVIL),
)


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command).replace(EVIL, "evil"))
def test_no_command_prints_what_a_terminal_obeys(cli: Cli, command: tuple[str, ...], as_json: bool) -> None:
    args = [each.replace("<letter>", letter_of(cli)) for each in command] + ["--json"] * as_json
    shown = cli(*args)
    assert not OBEYED.findall(shown.output), repr(shown.output)
    assert "owned" in shown.output


def test_json_still_holds_what_was_written(cli: Cli) -> None:
    assert cli.json("job", "show", "over")[0]["record"]["name"] == EVIL


def test_a_completion_of_a_shell_obeys_nothing(cli: Cli) -> None:
    context = typer.Context(TyperCommand("show"), obj=cli.connect)
    shown = [text for _, text in complete_job(context, "wai")]
    assert "owned" in shown[0]
    assert not OBEYED.findall(shown[0])


def rendered(what: RenderableType, *, colours: bool = True) -> str:
    console = display.console()
    console.file = io.StringIO()
    console._force_terminal = colours
    console.print(what)
    return console.file.getvalue()


def test_styles_remain_where_hidden_letters_are_shown() -> None:
    text = Text.assemble(("be\x1bfore", "bold"), " af\u202eter")
    plain = display._visible_text(text)
    assert plain.plain == "be\\x1bfore af\\u202eter"
    assert [(span.start, span.end, str(span.style)) for span in plain.spans] == [
        (0, 2, "bold"),
        (2, 6, "bold"),
        (6, 10, "bold"),
    ]


def test_a_text_is_no_markup() -> None:
    assert rendered("[red]a[/red] [link=http://b]c[/link] :boom:") == "[red]a[/red] [link=http://b]c[/link] :boom:\n"


def test_a_cell_of_a_table_is_as_wide_as_what_is_shown() -> None:
    table = Table.grid()
    table.add_column(width=8, overflow="fold")
    table.add_column()
    table.add_row(Text("\x1b" * 4), "|")
    assert rendered(table, colours=False) == "\\x1b\\x1b|\n\\x1b\\x1b \n"
