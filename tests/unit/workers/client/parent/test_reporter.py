"""Reports of a site reach the server in order, as soon as it runs; lines of logs do not accumulate."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from redflare_broker.cell.cell import LATER, Cell, HandlerResult, Request
from redflare_workers.client.parent.reporter import CellReporter
from redflare_workers.protocol.message import Message
from redflare_workers.protocol.parent_messages import SiteLog, SiteReport
from redflare_workers.util.line_queue import LINE, MOST_BYTES

from tests.support.cell.cells import Cells, cells_on_fakeredis
from tests.support.waiting import wait_until


@pytest.fixture
def cells() -> Iterator[Cells]:
    with cells_on_fakeredis() as made:
        yield made


@pytest.fixture
def reporter(cells: Cells) -> CellReporter:
    return CellReporter(cells.make("site-1"), "site-1", "server")


def server(cells: Cells, message: type[Message], handler: object) -> Cell:
    cell = Cell(cells.server, "server", cells.settings)
    cells._made.append(cell)
    cell.register_request_cb(message.CHANNEL, message.TOPIC, handler)  # type: ignore[arg-type]
    cell.start()
    return cell


def report(status: str, job: str = "job-1", code: int | None = None) -> SiteReport:
    return SiteReport(site="site-1", job=job, run="r", status=status, exit_code=code)


def test_reports_of_a_job_arrive_in_order_although_the_server_is_slow(cells: Cells, reporter: CellReporter) -> None:
    statuses: list[str] = []
    taken: list[tuple[str, str]] = []
    go = threading.Event()
    for status in ("starting", "started", "stopped"):
        reporter.report(report(status), lambda abort, status=status: taken.append((status, abort)))  # type: ignore[misc]

    def slow(request: Request) -> HandlerResult:
        if request.meta["status"] == "starting":
            go.wait(20)
        statuses.append(request.meta["status"])
        return "OK", {"abort": "no" if request.meta["status"] == "started" else ""}, None

    server(cells, SiteReport, slow)
    other: list[str] = []
    reporter.report(report("starting", "job-2"), other.append)
    go.set()
    wait_until(lambda: len(taken) == 3 and other)
    assert [status for status in statuses if status != "starting"] == ["started", "stopped"]
    assert taken == [("starting", ""), ("started", "no"), ("stopped", "")]
    wait_until(lambda: reporter._lanes == {})


def test_a_report_that_the_server_does_not_understand_does_not_hold_up_the_next(
    cells: Cells, reporter: CellReporter
) -> None:
    taken: list[str] = []

    def picky(request: Request) -> HandlerResult:
        if request.meta["status"] == "starting":
            raise ValueError("what?")
        return None

    server(cells, SiteReport, picky)
    reporter.report(report("starting"), lambda _: taken.append("starting"))
    reporter.report(report("started"), lambda _: taken.append("started"))
    wait_until(lambda: taken)
    assert taken == ["started"]


def test_reports_of_a_cell_that_was_stopped_are_dropped(cells: Cells, reporter: CellReporter) -> None:
    taken: list[str] = []
    reporter.report(report("starting"), taken.append)
    reporter.report(report("stopped", code=0), taken.append)
    reporter.cell.stop()
    reporter.report(report("stopped", code=0), taken.append)
    reporter.log("job-1", ["a line"])
    assert taken == []


def lines_of(parked: Sequence[Request], job: str = "job-1") -> list[str]:
    return [line for request in parked if request.meta["job"] == job for line in request.meta["lines"]]


def test_lines_that_the_server_does_not_take_do_not_accumulate_and_the_note_is_their_jobs(
    cells: Cells, reporter: CellReporter
) -> None:
    parked: list[Request] = []

    def park(request: Request) -> HandlerResult:
        parked.append(request)
        return LATER

    def answer_all(count: int) -> None:
        for number in range(count):
            wait_until(lambda number=number: len(parked) > number)  # type: ignore[misc]
            parked[number].reply()

    server(cells, SiteLog, park)
    for number in range(40):
        reporter.log("job-1", [f"{number} {'x' * 100_000}"] * 10)
    reporter.log("job-2", ["of another job"])
    wait_until(lambda: len(parked) == 2)
    answer_all(2)
    wait_until(lambda: len(parked) >= 3)
    # one at a time, however many wait
    assert len(parked) == 3
    answer_all(7)
    wait_until(lambda: reporter._lanes == {})
    assert max(map(len, lines_of(parked))) <= LINE
    [note] = [line for line in lines_of(parked) if line.startswith("(")]
    taken = len(lines_of(parked)) - 1
    assert note.startswith(f"({400 - taken} lines, ")
    assert lines_of(parked)[-1] == note
    assert sum(map(len, lines_of(parked))) < 1.2 * MOST_BYTES
    assert lines_of(parked, "job-2") == ["of another job"]


def test_the_last_report_of_a_process_comes_behind_its_lines(cells: Cells, reporter: CellReporter) -> None:
    arrived: list[str] = []

    def take(request: Request) -> HandlerResult:
        arrived.extend([request.meta["status"]] if "status" in request.meta else request.meta["lines"])
        return None

    cell = Cell(cells.server, "server", cells.settings)
    cells._made.append(cell)
    for message in (SiteReport, SiteLog):
        cell.register_request_cb(message.CHANNEL, message.TOPIC, take)
    reporter.report(report("starting"), lambda _: None)
    reporter.log("job-1", ["one"])
    reporter.report(report("started"), lambda _: None)
    reporter.log("job-1", ["two"])
    reporter.report(report("stopped", code=0), lambda _: None)
    cell.start()
    wait_until(lambda: reporter._lanes == {})
    assert arrived == ["starting", "started", "one", "two", "stopped"]


def test_lines_and_reports_name_the_submission_that_they_are_of(cells: Cells, reporter: CellReporter) -> None:
    metas: list[dict[str, Any]] = []

    def take(request: Request) -> HandlerResult:
        metas.append(request.meta)
        return None

    cell = Cell(cells.server, "server", cells.settings)
    cells._made.append(cell)
    for message in (SiteReport, SiteLog):
        cell.register_request_cb(message.CHANNEL, message.TOPIC, take)
    reporter.log("job-1", ["of the first"], "s1")
    reporter.log("job-1", ["of the second"], "s2")
    reporter.report(replace(report("started"), submission="s2"), lambda _: None)
    cell.start()
    wait_until(lambda: reporter._lanes == {})
    found = sorted((meta["submission"], meta.get("lines") or meta["status"]) for meta in metas if meta.get("lines"))
    assert found == [("s1", ["of the first"]), ("s2", ["of the second"])]
    assert [meta["submission"] for meta in metas if "status" in meta] == ["s2"]
