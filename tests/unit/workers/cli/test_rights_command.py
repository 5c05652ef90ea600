"""``redflare rights``, and the table of rights in the documentation."""

from __future__ import annotations

import json
import re

import pytest
from redflare_broker.errors import ConfigError
from redflare_broker.rights import COMMANDS, TABLE, Party
from redflare_workers.cli.app import app
from typer.testing import CliRunner, Result

from tests.support.paths import DOCS

PAGE = (DOCS / "configuration.md").read_text()


def rights(*args: str) -> Result:
    return CliRunner(env={"COLUMNS": "80", "NO_COLOR": "1"}).invoke(app, ["rights", *args])


def test_the_rules_of_a_site_name_its_own_keys() -> None:
    rules = Party(kind="site", name="site-1", namespace="hospital").rules()
    assert "~hospital:{site-1--*}:*" in rules
    assert "~hospital:{*}:inbox:site-1" in rules
    assert "(+sadd ~hospital:{*}:senders)" in rules
    assert not [rule for rule in rules if rule.startswith("~hospital:*")]
    assert "+eval" not in rules
    assert "+fcall" in rules


def test_a_name_that_holds_a_placeholder_stays_as_it_is() -> None:
    assert "~flare:{SITE--NAME}:*" in Party(kind="agent", name="NAME", site="SITE").rules()


@pytest.mark.parametrize(
    "given",
    [
        {"kind": "agent", "name": "a"},
        {"kind": "site", "name": "a", "site": "b"},
        {"kind": "site", "name": "a--b"},
        {"kind": "site", "name": "*"},
        {"kind": "agent", "name": "a", "site": "b*"},
        {"kind": "site", "name": "a", "namespace": "*"},
        {"kind": "site", "name": "a", "server": "s*"},
    ],
)
def test_a_party_whose_name_could_reach_others_is_refused(given: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        Party(**given)  # type: ignore[arg-type]


def test_only_a_server_may_load_functions_and_nobody_may_bring_scripts() -> None:
    server, site = Party(kind="server", name="server"), Party(kind="site", name="site-1")
    assert "+function|load" in server.rules()
    assert "+function|load" not in site.rules()
    assert not {"+eval", "+evalsha"} & {*server.rules(), *site.rules()}
    assert {"+spublish", "+role"} <= set(site.rules(cluster=True, sentinel=True))


def test_the_command_prints_the_rules_and_refuses_bad_names() -> None:
    assert rights("site", "site-1").stdout.split() == " ".join(Party(kind="site", name="site-1").rules()).split()
    shown = json.loads(rights("agent", "trainer", "--site", "site-1", "--json").stdout)
    assert shown["user"] == "site-1--trainer"
    refused = rights("agent", "trainer")
    assert refused.exit_code == 2
    assert "an agent has a site" in refused.stderr


def test_the_pages_table_is_the_codes() -> None:
    words = {"~": "read and write", "%R~": "read", "&": "publish, listen"}
    names = {"NS:": "ns:", "SITE": "<site>", "SERVER": "<server>"}
    rows = []
    for right in TABLE:
        pattern = re.sub("NS:|SITE|SERVER", lambda found: names[found.group()], right.pattern)
        pattern = pattern.replace("NAME", f"<{right.kind}>")
        may = f"`{' '.join(right.only).upper()}`" if right.only else words[right.access]
        rows.append(f"| {right.kind} | {may} | `{pattern}` | {right.purpose} |")
    assert "\n".join(rows) in PAGE
    assert " ".join(Party(kind="agent", name="trainer", site="site-1").rules()) in PAGE


def test_every_kind_of_party_has_commands_and_rights() -> None:
    assert {right.kind for right in TABLE} == set(COMMANDS)
