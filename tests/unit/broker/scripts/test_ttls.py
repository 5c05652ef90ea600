"""Every TTL that a script sets: shorten all keys, run the step, and expect the TTLs that its row names, and no others.

The rows are compared with the scripts' own text, so a script that sets a TTL and has no row fails.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import fakeredis
import pytest
import redflare_broker
from redflare_broker.config.retention import JobRetentionPolicy
from redflare_broker.keys import Keys
from redflare_broker.transport.connection import Connection
from redflare_broker.transport.server import ConnectionOptions, Server

from tests.support.cell.bench import CellBench
from tests.support.job.state import JobBench
from tests.support.job.store import StoreBench
from tests.support.link.bench import LinkBench
from tests.support.ttls import job_rows, link_rows
from tests.support.ttls.job_rows import RECORD_TTLS
from tests.support.ttls.row import POLICY, SHORT, TTLS, Row

ROWS: Final = (*link_rows.ROWS, *job_rows.ROWS)

#: A test runs for less than this, in ms.
SLACK: Final = 4_000

# -- the tests ---------------------------------------------------------------------------------------------------------


def bench_of(row: Row, server: Server, connection: Connection) -> Any:
    kinds: dict[str, Callable[[], Any]] = {
        "link": lambda: LinkBench(connection, policy=POLICY),
        "cell": lambda: CellBench(connection),
        "job": lambda: JobBench(server, connection, policy=POLICY),
        "store": lambda: StoreBench(
            server, connection, policy=JobRetentionPolicy(job_retention=POLICY.retention, upload_keep=10.0)
        ),
    }
    return kinds[row.script.split("/")[0]]()


def keys_of(bench: Any, name: str, existing: set[str]) -> set[str]:
    """Return the keys that a script calls by this name."""
    keys = bench.keys
    prefixes = {"chunks": "blob:", "task_prefix": "task:", "client_prefix": "client:", "heartbeat": "heartbeat"}
    if name in prefixes:
        return {key for key in existing if key.startswith(f"{keys.prefix}:{prefixes[name]}")}
    if isinstance(bench, StoreBench):
        of_all = name in ("jobs", "deleted")
        return {getattr(keys, name) if of_all else getattr(keys, name)("job-1")}
    of_one = {"client": lambda: keys.client("site-1"), "inbox": lambda: bench.inbox}
    if name in of_one:
        return {of_one[name]()}
    if name in ("task", "expected_task"):
        return {keys.task("t1" if name == "task" else "t0")}
    others = {"stream": "tasks"}
    return {Keys().agents if name == "agents" else getattr(keys, others.get(name, name))}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.script}: {row.run.__name__}")
def test_a_step_sets_these_ttls_and_no_others(row: Row, options: ConnectionOptions) -> None:
    client = fakeredis.FakeRedis(server=fakeredis.FakeServer())
    with Server.connect(client=client, options=options) as server, server.borrow("any") as connection:
        bench = bench_of(row, server, connection)
        halves = row.run(bench)
        next(halves)
        for key in server.scan("*"):
            connection.call("PEXPIRE", key, SHORT)
        assert next(halves, None) is None
        left = {key: connection.call("PTTL", key) for key in server.scan("*")}
        # written beside the scripts, whole each time
        left.pop(getattr(bench.keys, "policy", ""), None)
        expected = dict.fromkeys(left, SHORT)
        for name, ttl in row.ttls.items():
            found = keys_of(bench, name, set(left))
            assert found
            assert found <= set(left), f"{name} is not there"
            expected |= dict.fromkeys(found, TTLS[ttl])
        wrong = {
            key: (ttl, expected[key])
            for key, ttl in left.items()
            if not isinstance(ttl, int) or not expected[key] - SLACK < ttl <= expected[key]
        }
        assert wrong == {}


# -- the scripts' text -------------------------------------------------------------------------------------------------

LUA: Final = Path(redflare_broker.__file__).parent / "scripts" / "lua"
#: What the functions of the prologues do, by how they are called.
CALLS: Final = {
    r"\bown\(blobs": [("blobs", "retention_ms")],
    r"\bfinish\(link, tasks, results, expected_task,": [("expected_task", "settled_ms")],
    r"\bfinish\(link, tasks, results, task,": [("task", "settled_ms")],
    r"\bbury\(": [("dead", "retention_ms")],
    r"\brenew\(": [("chunks", "retention_ms")],
    r"\brenew_job\(": [(name, "retention_ms") for name in RECORD_TTLS],
}
#: Deleted by the same step.
EXEMPT: Final = {("link/preflight", "probe", "ttl_ms")}


def ttls_in(name: str, source: str) -> Iterator[tuple[str, str, str]]:
    """Yield each TTL that the text of a script sets: script, key, TTL."""
    code = "\n".join(line for line in source.splitlines() if not line.strip().startswith("--"))
    found = [(key, ttl) for ttl, keys in re.findall(r"\bkeep\(([^,]+), ([^\n]+?)\)", code) for key in keys.split(", ")]
    found += re.findall(r"'PEXPIRE', (\w+), ((?:redis\.call\('PTTL', record\)|\w+))\)", code)
    found += re.findall(r"'SET', (\w+), \w+, 'PX', (\w+)\)", code)
    found += [(key, ttl) for ttl, key in re.findall(r"\blengthen\(may_keep, (\w+), (\w+)\)", code)]
    found += [pair for call, pairs in CALLS.items() if re.search(call, code) for pair in pairs]
    for key, ttl in found:
        names = re.findall(r"\w+_ms", ttl) or ["the record's"]
        variable = "stream" if "stream" in key else key.split(" .. ")[0]
        yield from ((name, variable, word) for word in names)


def test_every_ttl_in_a_script_has_a_row() -> None:
    files = [file for file in sorted(LUA.glob("*/*.lua")) if not file.name.startswith("_")]
    names = {file.relative_to(LUA).with_suffix("").as_posix(): file.read_text("utf-8") for file in files}
    written = {found for name, source in names.items() for found in ttls_in(name, source)}
    rows = {(row.script, key, ttl) for row in ROWS for key, ttl in row.ttls.items()}
    assert written - rows == EXEMPT
    assert rows - written == set()
