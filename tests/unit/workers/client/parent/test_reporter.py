"""Reports of a site reach the server in order, as soon as it runs; lines of logs do not accumulate."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from redflare_broker.cell.cell import LATER, Cell, HandlerResult, Request
from redflare_workers.client.parent.reporter import CellReporter
from redflare_workers.protocol.message import Message
from redflare_workers.protocol.parent_messages import SiteLog, SiteReport

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
    assert reporter._reports == {}


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


def test_lines_that_the_server_does_not_receive_do_not_accumulate(cells: Cells, reporter: CellReporter) -> None:
    parked: list[Request] = []

    def park(request: Request) -> HandlerResult:
        parked.append(request)
        return LATER

    server(cells, SiteLog, park)
    for number in range(40):
        reporter.log("job-1", [f"line {number}"])
    wait_until(lambda: len(parked) == 16)
    for request in parked:
        request.reply()
    wait_until(lambda: reporter._on_their_way == 0)
    reporter.log("job-1", [f"x {n}" for n in range(600)])
    wait_until(lambda: len(parked) == 17)
    lines = parked[-1].meta["lines"]
    assert (lines[0], lines[-1]) == ("(24 lines are left out here)", "(100 lines are left out here)")
    assert len(lines) == 502
    parked[-1].reply()
