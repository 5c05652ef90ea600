"""The benchmark suite itself: its statistics, its child processes, and one benchmark run with 20 samples."""

from __future__ import annotations

import os
from pathlib import Path

import orjson
import pytest
import redis
from redflare_broker.embedded.server import EmbeddedServer
from rich.console import Console

from tests.benchmarks import round_trip, server_payload, server_tasks
from tests.benchmarks.federation import BroadcastServer, LightClients
from tests.benchmarks.figures import Figure, Target, percentile, spread, summary
from tests.benchmarks.harness import Benchmark, BenchmarkContext, Child, ChildError, children, count_commands
from tests.benchmarks.report import Report


class Adder:
    """Runs in a child process of the tests below."""

    def __init__(self, first: int) -> None:
        if first < 0:
            raise ValueError(f"first is {first}")
        self._sum = first

    def add(self, number: int) -> int:
        self._sum += number
        return self._sum

    def pid(self) -> int:
        return os.getpid()

    def vanish(self) -> None:
        os._exit(3)


def test_a_percentile_is_the_sample_that_so_many_do_not_exceed() -> None:
    samples = [float(number) for number in range(100, 0, -1)]
    assert summary("x", samples) == {"x.p50": 50.0, "x.p90": 90.0, "x.p99": 99.0}
    assert percentile([7.0], 99) == 7.0


def test_a_percentile_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        percentile([], 50)


def test_spread_is_the_range_as_a_share_of_the_median() -> None:
    assert spread([9.0, 10.0, 12.0]) == pytest.approx(0.3)
    assert spread([5.0]) == 0.0


def test_a_ratio_is_taken_within_each_run_before_the_median() -> None:
    figure = Figure(title="x", key="ours", unit="ms", floor="floor", target=Target(bound=2.0))
    runs = [{"ours": 3.0, "floor": 1.0}, {"ours": 30.0, "floor": 20.0}, {"ours": 8.0, "floor": 5.0}]
    assert figure.judged(runs) == pytest.approx(1.6)
    assert figure.reached(runs) is True
    assert figure.reached(runs[:1]) is False


def test_a_target_without_a_floor_judges_the_value_itself() -> None:
    at_least = Figure(title="x", key="rate", unit="1/s", target=Target(direction=">=", bound=100.0))
    assert at_least.reached([{"rate": 99.0}]) is False
    assert at_least.reached([{"rate": 100.0}]) is True
    assert Figure(title="x", key="rate", unit="1/s").reached([{"rate": 1.0}]) is None


def test_a_child_lives_in_another_process_and_keeps_its_state() -> None:
    with children(lambda: Child(Adder, 1)) as (adder,):
        assert [adder.call("add", 1), adder.call("add", 2)] == [2, 4]
        assert adder.call("pid") != os.getpid()


def test_a_failure_in_a_child_arrives_with_its_traceback() -> None:
    with children(lambda: Child(Adder, 1)) as (adder,):
        with pytest.raises(ChildError, match="TypeError"):
            adder.call("add", "one")
        assert adder.call("add", 1) == 2


def test_a_child_that_cannot_start_reports_why() -> None:
    with pytest.raises(ChildError, match="first is -1"), children(lambda: Child(Adder, -1)):
        pytest.fail("the block was entered")


def test_a_child_that_ends_in_the_middle_of_a_call_is_reported() -> None:
    with children(lambda: Child(Adder, 1)) as (adder,), pytest.raises(ChildError, match="ended"):
        adder.call("vanish")


def test_twenty_samples_of_the_round_trip_become_a_table_and_json(tmp_path: Path) -> None:
    with EmbeddedServer() as server:
        context = BenchmarkContext(url=server.url, workspace=str(tmp_path), scale=0.01)
        values = round_trip.measure(context)
    report = Report(circumstances={"server": "embedded"})
    report.add(round_trip.BENCHMARK, values)
    console = Console(record=True, width=200)
    report.show([round_trip.BENCHMARK], console)
    report.write([round_trip.BENCHMARK], tmp_path / "bench.json")
    written = orjson.loads((tmp_path / "bench.json").read_bytes())
    assert {figure["key"] for figure in written["figures"]} == {figure.key for figure in round_trip.BENCHMARK.figures}
    assert all(figure["median"] > 0 for figure in written["figures"] if figure["key"] != "late.p50")
    assert "round trip, p50" in console.export_text()


@pytest.mark.parametrize("benchmark", [server_tasks.BENCHMARK, server_payload.BENCHMARK], ids=lambda each: each.name)
def test_a_few_samples_of_a_server_have_all_its_figures(benchmark: Benchmark, tmp_path: Path) -> None:
    with EmbeddedServer() as server:
        values = benchmark.measure(BenchmarkContext(url=server.url, workspace=str(tmp_path), scale=0.01))
    assert {figure.key for figure in benchmark.figures} <= values.keys()
    assert all(value > 0 for key, value in values.items() if not key.endswith("cpu") and key != "passed")


def test_light_clients_hold_results_back_until_answer() -> None:
    with (
        EmbeddedServer() as redis_server,
        children(
            lambda: Child(BroadcastServer, redis_server.url, "job"),
            lambda: Child(LightClients, redis_server.url, "job", 3, 0, True),
        ) as (server, sites),
    ):
        sites.call("ask")
        server.call("await_clients", 3)
        server.call("begin_broadcast", 1 << 20)
        assert len(sites.call("stamps", 3)) == 3
        server.start("finish_broadcast")
        with pytest.raises(ChildError, match="has not answered"):
            server.result(timeout=0.1)
        sites.call("answer")
        assert server.result() == [0, 0, 0]


def test_commands_of_clients_and_of_scripts_are_counted_separately() -> None:
    with EmbeddedServer() as server, redis.Redis.from_url(server.url) as client:
        client.ping()
        with count_commands(server.url) as count:
            client.eval("redis.call('SET', KEYS[1], '1'); return redis.call('GET', KEYS[1])", 1, "k")
            client.get("k")
    assert (count.by_clients, count.by_scripts) == (2, 2)
    assert count.names == {"EVAL": 1, "GET": 1}
