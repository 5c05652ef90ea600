"""Every key of the protocol: ``docs/protocol.md`` and ``keys.py`` agree on each, and a link is in one slot."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import pytest
from redflare_broker.errors import ConfigError
from redflare_broker.keys import CellKeys, JobKeys, Keys, LinkKeys, StoreKeys, room_note
from redflare_broker.wire.task_entry import check_id
from redis.crc import key_slot

from tests.support.paths import DOCS

PAGE: Final = DOCS / "protocol.md"
NS: Final = Keys("ns")
LINK: Final = NS.link("F")
JOB: Final = NS.job("X")
CELL: Final = NS.cell("C")
STORE: Final = NS.store("S")
#: Arguments of the keys that take one, as the table writes them.
ARGUMENTS: Final = {
    "task": ["<task_id>"],
    "heartbeat": ["agent", "cj"],
    "result_blob": ["<id>"],
    "task_blob": ["<id>"],
}
JOB_ARGUMENTS: Final = {"task": ["<root_id>"], "heartbeat": ["<client>"], "client": ["<client>"]}
CELL_ARGUMENTS: Final = {"blob": ["<id>"], "inbox": ["<owner>"]}
STORE_ARGUMENTS: Final = {"record": ["<id>"], "log": ["<id>"]}
#: Chunks are numbered below the prefix that ``keys.py`` makes.
CHUNKED: Final = ("blob", "result_blob", "task_blob")


@dataclass(frozen=True, slots=True)
class KeyDescription:
    """Type and expiry of a key, as documented."""

    kind: str
    expires: bool


def documented() -> dict[str, KeyDescription]:
    """The rows of the table of keys."""
    table = PAGE.read_text().partition("| Key or channel |")[2].partition("\n\n")[0]
    found = {}
    for row in table.splitlines()[2:]:
        names, kind, _, _, life = (cell.strip() for cell in row.strip("|").split("|"))
        for name in re.findall(r"`([^`]+)`", names):
            found[name] = KeyDescription(kind, "TTL" in life)
    return found


def coded() -> dict[str, KeyDescription]:
    """The keys of ``keys.py``, as its docstrings describe them."""
    made = [
        *_made(LINK, LinkKeys, except_for=("prefix",)),
        *_made(NS, Keys, except_for=("link", "job", "cell", "store")),
    ]
    made += _made(CELL, CellKeys, except_for=("prefix",), arguments=CELL_ARGUMENTS)
    # the keys of the server's cell are the cell's own
    made += _made(JOB, JobKeys, except_for=("prefix", "cell", "server_heartbeat", "blob"), arguments=JOB_ARGUMENTS)
    # files of jobs are payloads of the server's cell
    made += _made(STORE, StoreKeys, except_for=("prefix", "blob", "cell"), arguments=STORE_ARGUMENTS)
    text = inspect.getdoc(room_note) or ""
    made.append((room_note("<prefix>"), KeyDescription(re.split("[,;]", text)[0], "TTL" in text)))
    return dict(made)


def _made(
    keys: Any, kind: type, except_for: tuple[str, ...], arguments: dict[str, list[str]] = ARGUMENTS
) -> Iterator[tuple[str, KeyDescription]]:
    for name, member in vars(kind).items():
        if (
            name.startswith("_")
            or name in except_for
            or not (inspect.isfunction(member) or isinstance(member, property))
        ):
            continue
        text = inspect.getdoc(member) or ""
        description = KeyDescription(re.split("[,;]", text)[0], "TTL" in text)
        made = [getattr(keys, name)] if isinstance(member, property) else map(getattr(keys, name), arguments[name])
        for key in made:
            yield f"{key}:<n>" if name in CHUNKED else key, description


def test_every_key_is_in_the_table_and_every_row_is_a_key() -> None:
    assert documented() == coded()


def test_the_table_has_no_key_without_a_ttl() -> None:
    rows = documented()
    assert len(rows) > 20
    assert {description.kind for description in rows.values() if not description.expires} == {"channel"}


@pytest.mark.parametrize("fqcn", ["site-1--trainer", "site-1.job-7.trainer", "a", "~_-.b"])
def test_all_keys_of_a_link_are_in_one_slot(fqcn: str) -> None:
    link = Keys("my-namespace").link(fqcn)
    keys = [link.tasks, link.results, link.link, link.dead, link.abort, link.notice, link.task("t:1"), link.task("")]
    keys += [link.heartbeat("agent"), link.heartbeat("cj"), f"{link.result_blob('id')}:7", f"{link.task_blob('id')}:7"]
    assert {key_slot(key.encode()) for key in keys} == {key_slot(fqcn.encode())}


def test_all_keys_of_a_job_and_its_servers_cell_are_in_one_slot() -> None:
    job = Keys().job("server.job-1")
    keys = [job.job, job.clients, job.standing, job.ended, job.task("t:1"), job.task(""), job.blobs, job.history]
    keys += [job.heartbeat("site-1"), job.heartbeat(""), job.cell, job.server_heartbeat, f"{job.blob('id')}:7"]
    assert {key_slot(key.encode()) for key in keys} == {key_slot(b"server.job-1")}
    assert job.blob("b") == Keys().cell("server.job-1").blob("b")


def test_all_keys_of_a_job_store_and_its_servers_cell_are_in_one_slot() -> None:
    store, cell = Keys().store("server"), Keys().cell("server")
    keys = [
        store.jobs,
        store.record("job-1"),
        store.log("job-1"),
        f"{store.blob('job-1-archive-0123')}:7",
        store.cell.senders,
    ]
    assert {key_slot(key.encode()) for key in keys} == {key_slot(b"server")}
    assert (store.cell, store.blob("b")) == (cell, cell.blob("b"))


@pytest.mark.parametrize("wrong", ["a b", "site{1}", "site:1", "", "a..b", "é", "a\n"])
def test_a_name_that_could_break_out_of_the_hash_tag_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigError, match=r"use one or more of A-Z a-z 0-9 _ ~ -"):
        Keys().link(wrong)
    if wrong:
        with pytest.raises(ConfigError, match="namespace"):
            Keys(wrong)


@pytest.mark.parametrize("wrong", ["a{b}", "a b", "", "x" * 201, 7])
def test_a_task_id_that_cannot_be_part_of_a_key_is_refused(wrong: object) -> None:
    with pytest.raises(ConfigError, match="task_id must be a str of 1 to 200"):
        check_id(wrong)


@pytest.mark.parametrize("wrong", ["", None, 5])
def test_an_invalid_namespace_is_refused_with_its_value(wrong: Any) -> None:
    with pytest.raises(ConfigError, match=re.escape(repr(wrong))):
        Keys(wrong)
