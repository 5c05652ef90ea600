"""The log of a job: lines of sites and changes of status, capped, and followed live until the end."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import fakeredis
import pytest
from redflare_broker.config.retention import JobRetentionPolicy
from redflare_broker.errors import ConfigError
from redflare_broker.job_store.log_follower import JobLogFollower
from redflare_broker.transport.server import ConnectionOptions, Server

from tests.support.job.store import StoreBench
from tests.support.waiting import wait_until


@pytest.fixture
def bench(options: ConnectionOptions) -> Iterator[StoreBench]:
    redis = fakeredis.FakeRedis(server=fakeredis.FakeServer())
    with Server.connect(client=redis, options=options) as server, server.borrow("any") as connection:
        yield StoreBench(server, connection, policy=JobRetentionPolicy(log_lines=400, line_bytes=20))


@pytest.fixture
def live(server_url: str, namespace: str) -> Iterator[StoreBench]:
    with Server.connect(server_url) as server, server.borrow("any") as connection:
        bench = StoreBench(server, connection, namespace)
        yield bench
        for key in server.scan(f"{namespace}:*"):
            assert bench.ttl_ms(key) > 0
            connection.call("UNLINK", key)


class Following:
    """A thread that follows a log."""

    def __init__(self, follower: JobLogFollower) -> None:
        self.follower = follower
        self.lines: list[str] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        for line in self.follower:
            self.lines.append(line.status or line.text)

    def join(self) -> None:
        self._thread.join(10)
        assert not self._thread.is_alive()

    def until(self, last: str) -> None:
        wait_until(lambda: self.lines[-1:] == [last], what=f"{self.lines} ending with {last}")


# -- lines -------------------------------------------------------------------------------------------------------------


def test_lines_and_changes_of_status_are_read_in_order(bench: StoreBench) -> None:
    bench.submit()
    assert bench.store.append_log("job-1", "site-1", ["round 0\n", "loss 0.5"], level="INFO")
    bench.store.advance("job-1", "SUBMITTED", "FINISHED:ABNORMAL", "broke")
    lines = bench.store.read_log("job-1")
    assert [(line.site, line.level, line.status, line.text) for line in lines] == [
        ("", "", "SUBMITTED", ""),
        ("site-1", "INFO", "", "round 0"),
        ("site-1", "INFO", "", "loss 0.5"),
        ("", "", "FINISHED:ABNORMAL", "broke"),
    ]
    assert [line.at for line in lines] == sorted(line.at for line in lines)
    assert 0 <= lines[0].at - bench.get().submitted < 1000
    assert lines[1].to_json() == {
        "id": lines[1].id, "site": "site-1", "text": "round 0", "level": "INFO", "status": "", "at": lines[1].at
    }  # fmt: skip


def test_reading_continues_after_a_given_line(bench: StoreBench) -> None:
    bench.submit()
    bench.store.append_log("job-1", "site-1", ["a", "b", "c"])
    first = bench.store.read_log("job-1", count=2)
    assert [line.text for line in bench.store.read_log("job-1", first[-1].id)] == ["b", "c"]
    assert bench.store.read_log("job-1", bench.store.read_log("job-1")[-1].id) == []


@pytest.mark.parametrize("wrong", ["$", "", "x", "1-", "-", None])
def test_an_invalid_line_id_is_refused(bench: StoreBench, wrong: str) -> None:
    with pytest.raises(ConfigError, match="the id of a line of a log must look like"):
        bench.store.read_log("job-1", wrong)
    with pytest.raises(ConfigError, match="the id of a line of a log must look like"):
        bench.store.follow("job-1", wrong)


def test_a_log_keeps_its_newest_lines(bench: StoreBench) -> None:
    bench.submit()
    bench.store.append_log("job-1", "site-1", [str(number) for number in range(700)])
    assert [line.text for line in bench.store.read_log("job-1")] == [str(number) for number in range(300, 700)]


def test_a_change_of_status_makes_a_log_no_longer_than_it_may_be(bench: StoreBench) -> None:
    bench.submit()
    bench.store.append_log("job-1", "site-1", [str(number) for number in range(400)])
    bench.store.advance("job-1", "SUBMITTED", "APPROVED")
    texts = [line.status or line.text for line in bench.store.read_log("job-1")]
    assert texts == [*map(str, range(1, 400)), "APPROVED"]


def test_a_long_line_is_cut_and_one_that_is_no_text_is_made_one(bench: StoreBench) -> None:
    bench.submit()
    bench.store.append_log("job-1", "site-1", ["x" * 20, "ü" * 11, "lone \ud800 half", ""])
    assert [line.text for line in bench.store.read_log("job-1")][1:] == ["x" * 20, "ü" * 8 + "...", "lone ? half", ""]


def test_a_job_that_is_not_there_gets_no_log(bench: StoreBench) -> None:
    assert not bench.store.append_log("gone", "site-1", ["line"])
    assert bench.store.append_log("gone", "site-1", [])
    assert bench.names() == []
    assert bench.store.read_log("gone") == []


def test_an_invalid_line_is_left_out_with_a_warning(bench: StoreBench, caplog: pytest.LogCaptureFixture) -> None:
    bench.submit()
    bench.connection.call("XADD", bench.keys.log("job-1"), "*", "other", "thing")
    bench.connection.call("XADD", bench.keys.log("job-1"), "*", "site", "s", "text", b"\xff")
    assert [line.text for line in bench.store.read_log("job-1")] == ["", "\\xff"]
    assert "is not a line of a log" in caplog.text


# -- following ---------------------------------------------------------------------------------------------------------


def test_a_follower_of_an_ended_job_reads_the_whole_log_and_ends(live: StoreBench) -> None:
    live.finished()
    live.store.append_log("job-1", "site-1", ["late"])
    with live.store.follow("job-1") as follower:
        texts = [line.status or line.text for line in follower]
    assert texts == ["SUBMITTED", "DISPATCHED", "RUNNING", "FINISHED:COMPLETED", "late"]


@pytest.mark.parametrize("fields", [("site", "site-1", "text", "late"), ("other", "thing")])
def test_an_entry_behind_the_end_does_not_keep_a_follower_waiting(live: StoreBench, fields: tuple[str, ...]) -> None:
    live.finished()
    live.connection.call("XADD", live.keys.log("job-1"), "*", *fields)
    with live.store.follow("job-1") as follower:
        Following(follower).join()


def test_a_follower_is_woken_by_each_line_and_ended_by_the_end(live: StoreBench) -> None:
    live.running()
    following = Following(live.store.follow("job-1"))
    following.until("RUNNING")
    for line in ("a", "b"):
        live.store.append_log("job-1", "site-1", [line])
        following.until(line)
    live.store.advance("job-1", "RUNNING", "FINISHED:COMPLETED")
    following.join()
    assert following.lines[-1] == "FINISHED:COMPLETED"


def test_a_follower_ends_when_it_is_closed(live: StoreBench) -> None:
    live.running()
    following = Following(live.store.follow("job-1"))
    following.until("RUNNING")
    following.follower.close()
    following.join()
    closed = live.store.follow("job-1")
    closed.close()
    assert list(closed) == []


def test_a_follower_continues_after_the_last_line_that_it_returned(live: StoreBench) -> None:
    live.finished()
    with live.store.follow("job-1") as follower:
        for line in follower:
            if line.status == "DISPATCHED":
                break
        assert [line.status for line in follower] == ["RUNNING", "FINISHED:COMPLETED"]


def test_a_follower_ends_when_the_job_is_gone_without_a_last_line(live: StoreBench) -> None:
    with live.store.follow("gone") as follower:
        assert list(follower) == []
    live.running()
    following = Following(live.store.follow("job-1", block=0.05))
    following.until("RUNNING")
    live.connection.call("UNLINK", live.keys.record("job-1"), live.keys.log("job-1"))
    following.join()


def test_a_follower_survives_a_lost_connection(live: StoreBench) -> None:
    live.running()
    following = Following(live.store.follow("job-1"))
    following.until("RUNNING")
    connection = wait_until(lambda: following.follower._connection)
    assert connection is not None
    connection.interrupt()
    live.store.append_log("job-1", "site-1", ["after"])
    following.until("after")
    live.store.advance("job-1", "RUNNING", "FINISHED:COMPLETED")
    following.join()
    assert following.lines.count("RUNNING") == 1
