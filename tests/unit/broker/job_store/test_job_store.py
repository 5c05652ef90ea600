"""The job store: submission, changes of status, aborts, renewal and deletion of jobs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial

import fakeredis
import orjson
import pytest
from redflare_broker.config.retention import JobRetentionPolicy
from redflare_broker.errors import (
    ConfigError,
    DecodeError,
    EncodeError,
    JobExists,
    JobUnfinished,
    JobUnknown,
    MessageTooLarge,
)
from redflare_broker.job_store.job_files import Source
from redflare_broker.job_store.record import FINISHED, STATUSES, UNFINISHED, SiteState, StoredFile
from redflare_broker.job_store.steps import StoreSteps
from redflare_broker.job_store.store import JobStore, whoami
from redflare_broker.keys import Keys
from redflare_broker.scripts.store_scripts import ABORT, ADVANCE, DELETE, LOG, RENEW, RESTORE, SET_FIELD
from redflare_broker.transport.replies import Arg
from redflare_broker.transport.server import ConnectionOptions, Server

from tests.support.calls import together
from tests.support.job.store import ARCHIVE, META, StoreBench, result, submission

WEEK_MS = 7 * 86_400_000


@pytest.fixture
def bench(options: ConnectionOptions) -> Iterator[StoreBench]:
    redis = fakeredis.FakeRedis(server=fakeredis.FakeServer())
    with Server.connect(client=redis, options=options) as server, server.borrow("any") as connection:
        yield StoreBench(server, connection)


# -- submitting --------------------------------------------------------------------------------------------------------


def test_a_submitted_job_is_stored_with_all_its_fields(bench: StoreBench) -> None:
    job_id = bench.store.submit(META, ARCHIVE, submitter="ann")
    record = bench.get(job_id)
    assert (record.id, record.status, record.name, record.meta) == (job_id, "SUBMITTED", "hello", META)
    assert (record.submitter, record.reason, record.finished, record.abort_requested) == ("ann", "", False, False)
    [moment] = record.history
    assert (moment.status, moment.by, moment.at, moment.at) == ("SUBMITTED", "ann", record.submitted, record.changed)
    assert record.archive is not None
    assert record.archive.nbytes == len(ARCHIVE)
    assert bench.store.read_archive(job_id) == ARCHIVE


def test_the_default_submitter_is_user_and_host(bench: StoreBench) -> None:
    assert bench.get(bench.store.submit(META, ARCHIVE)).submitter == whoami()
    assert "@" in whoami()


def test_the_server_is_woken_by_an_event_in_its_inbox_that_expires(bench: StoreBench) -> None:
    bench.submit()
    bench.store.request_abort("job-1", "bob")
    bench.store.delete("job-1")
    changes = [(event.kind, event.channel, event.topic, orjson.loads(event.meta)["change"]) for event in bench.events()]
    # a script that the server does not know yet is run twice, and so is its event
    assert list(dict.fromkeys(changes)) == [
        ("event", "server", "jobs_changed", word) for word in ("submitted", "abort", "deleted")
    ]
    assert {orjson.loads(event.meta)["job_id"] for event in bench.events()} == {"job-1"}
    assert len({event.id for event in bench.events()}) == len(changes)
    assert 0 < bench.ttl_ms(bench.inbox) <= 86_400_000


def test_a_job_that_is_submitted_again_is_the_same_job(bench: StoreBench) -> None:
    assert bench.submit() == bench.submit() == "job-1"
    bench.store.advance("job-1", "SUBMITTED", "RUNNING")
    before = bench.content()
    assert bench.submit() == "job-1"
    assert bench.content() == before
    assert len(bench.chunks()) == 1


def test_the_order_of_the_keys_of_a_meta_makes_no_other_job(bench: StoreBench) -> None:
    for meta in (META, dict(reversed(META.items()))):
        assert bench.store.submit(meta, ARCHIVE, "job-1") == "job-1"


@pytest.mark.parametrize(("meta", "archive"), [({"name": "other"}, ARCHIVE), (META, b"other")])
def test_another_job_cannot_take_an_id(bench: StoreBench, meta: dict[str, str], archive: bytes) -> None:
    bench.submit()
    with pytest.raises(JobExists, match="job job-1 has another meta or archive"):
        bench.store.submit(meta, archive, "job-1")
    assert len(bench.chunks()) == 1


def test_a_result_of_a_job_that_is_deleted_meanwhile_leaves_no_chunks(
    bench: StoreBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = StoreSteps.upload

    def delete_then(self: StoreSteps, name: str, source: Source) -> StoredFile:
        file = upload(self, name, source)
        assert bench.chunks()
        bench.store.delete("job-1")
        return file

    bench.finished()
    monkeypatch.setattr(StoreSteps, "upload", delete_then)
    with pytest.raises(JobUnknown):
        bench.store.put_result("job-1", b"result")
    assert bench.chunks() == []


@pytest.mark.parametrize("how", ["submitted", "restored"])
def test_a_log_that_outlived_its_record_is_not_that_of_the_next_job(bench: StoreBench, how: str) -> None:
    record = bench.running()
    bench.store.append_log("job-1", "site-1", ["of the one before"])
    bench.connection.call("DEL", bench.keys.record("job-1"))
    if how == "submitted":
        bench.submit()
    else:
        assert bench.store.restore(record)
    lines = bench.store.read_log("job-1")
    assert [line.status for line in lines] == ["SUBMITTED" if how == "submitted" else "RUNNING"]
    assert "of the one before" not in str(lines)


def test_of_many_concurrent_submissions_one_stores_the_job_and_the_others_leave_nothing(
    bench: StoreBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload, uploaded = StoreSteps.upload, threading.Barrier(4)

    def all_upload_before_one_submits(self: StoreSteps, name: str, source: Source) -> StoredFile:
        file = upload(self, name, source)
        uploaded.wait(20)
        return file

    def submit(number: int) -> object:
        try:
            return bench.store.submit(META, bytes([number]) * 9, "job-1")
        except JobExists as error:
            return type(error)

    monkeypatch.setattr(StoreSteps, "upload", all_upload_before_one_submits)
    answers = together([partial(submit, number) for number in range(4)])
    assert answers.count("job-1") == 1
    assert answers.count(JobExists) == 3
    assert len(bench.chunks()) == 1


@pytest.mark.parametrize("wrong", ["", "a.b", "a b", "x" * 65, "../x", "a:b", "{a}", "é", "a\n", "startup", "local", 7])
def test_an_id_that_could_not_be_part_of_a_name_is_refused_everywhere(bench: StoreBench, wrong: str) -> None:
    store = bench.store
    steps: list[Callable[[], object]] = [
        lambda: store.submit(META, ARCHIVE, wrong),
        lambda: store.get(wrong),
        lambda: store.advance(wrong, "SUBMITTED", "RUNNING"),
        lambda: store.request_abort(wrong, "ann"),
        lambda: store.set_site(wrong, "site-1", "started"),
        lambda: store.set_waiting(wrong, "why"),
        lambda: store.append_log(wrong, "site-1", ["line"]),
        lambda: store.read_log(wrong),
        lambda: store.follow(wrong),
        lambda: store.fetch_archive(wrong, "never"),
        lambda: store.put_result(wrong, b""),
        lambda: store.fetch_result(wrong, "never"),
        lambda: store.delete(wrong),
        lambda: store.renew([wrong]),
    ]
    for step in steps:
        with pytest.raises(
            (ConfigError, TypeError), match=r"^job_id .*(use one or more of|at most 64|use another id|got int)"
        ):
            step()
    assert bench.names() == []


@pytest.mark.parametrize(
    ("meta", "message"),
    [({"x": object()}, "must be JSON"), ({1: 2}, "must be JSON"), ({"x": "y" * (1 << 20)}, "1048576")],
)
def test_a_meta_that_cannot_be_stored_is_refused_before_anything_is_written(
    bench: StoreBench, meta: dict[str, object], message: str
) -> None:
    with pytest.raises(EncodeError, match=message):
        bench.store.submit(meta, ARCHIVE)
    assert bench.names() == []


# -- forward only ------------------------------------------------------------------------------------------------------


def test_each_change_is_in_the_history_with_time_reason_and_author(bench: StoreBench) -> None:
    bench.running()
    record = bench.store.advance(
        "job-1", {"RUNNING", "DISPATCHED"}, "FINISHED:EXECUTION_EXCEPTION", 'it "broke"\n', "s1"
    )
    assert record is not None
    assert [(moment.status, moment.reason, moment.by) for moment in record.history] == [
        ("SUBMITTED", "", "ann"),
        ("DISPATCHED", "2 sites", "server"),
        ("RUNNING", "", "server"),
        ("FINISHED:EXECUTION_EXCEPTION", 'it "broke"', "s1"),
    ]
    assert [moment.at for moment in record.history] == sorted(moment.at for moment in record.history)
    assert (record.status, record.reason, record.changed) == (
        "FINISHED:EXECUTION_EXCEPTION",
        'it "broke"',
        record.history[-1].at,
    )
    assert record == bench.get()


ORDER = {status: min(index, len(UNFINISHED)) for index, status in enumerate(STATUSES)}


@pytest.mark.parametrize("to", STATUSES)
@pytest.mark.parametrize("at", STATUSES)
def test_a_status_moves_only_forward_and_never_leaves_finished(bench: StoreBench, at: str, to: str) -> None:
    bench.submit()
    bench.store.advance("job-1", "SUBMITTED", at)
    assert bench.get().status == at
    moved = bench.store.advance("job-1", STATUSES, to)
    assert (moved is not None) == (ORDER[to] > ORDER[at])
    assert bench.get().status == (to if moved else at)


def test_a_job_in_another_status_does_not_change(bench: StoreBench) -> None:
    bench.submit()
    before = bench.content()
    assert bench.store.advance("job-1", {"APPROVED", "DISPATCHED"}, "RUNNING") is None
    assert bench.store.advance("job-1", (), "RUNNING") is None
    assert bench.store.advance("gone", STATUSES, "RUNNING") is None
    assert bench.content() == before


def test_of_many_concurrent_changes_of_status_one_succeeds(bench: StoreBench) -> None:
    bench.submit()
    moved = together([lambda: bench.store.advance("job-1", "SUBMITTED", "DISPATCHED")] * 8)
    assert sum(record is not None for record in moved) == 1
    assert len(bench.get().history) == 2


@pytest.mark.parametrize("wrong", ["FINISHED", "DONE", "", None])
def test_an_unknown_status_is_refused(bench: StoreBench, wrong: str) -> None:
    bench.submit()
    for step in (
        lambda: bench.store.advance("job-1", "SUBMITTED", wrong),
        lambda: bench.store.advance("job-1", [wrong], "RUNNING"),
        lambda: bench.store.list([wrong]),
    ):
        with pytest.raises(ConfigError, match="a job's status must be one of SUBMITTED, APPROVED"):
            step()


# -- aborting ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["SUBMITTED", "APPROVED"])
def test_a_job_that_was_not_dispatched_ends_at_once_when_it_is_aborted(bench: StoreBench, at: str) -> None:
    bench.submit()
    bench.store.advance("job-1", "SUBMITTED", at)
    record = bench.store.request_abort("job-1", "bob", "wrong data")
    assert (record.status, record.reason, record.abort_by, record.abort_reason) == (
        *("FINISHED:ABORTED", "wrong data", "bob", "wrong data"),
    )
    assert (record.history[-1].by, record.abort_requested) == ("bob", False)
    assert bench.store.advance("job-1", at, "DISPATCHED") is None


@pytest.mark.parametrize("at", ["DISPATCHED", "RUNNING"])
def test_after_an_abort_only_an_end_follows(bench: StoreBench, at: str) -> None:
    bench.submit()
    bench.store.advance("job-1", "SUBMITTED", at)
    record = bench.store.request_abort("job-1", "bob", "wrong data")
    assert (record.status, record.abort_requested) == (at, True)
    assert record.abort >= record.changed
    assert bench.store.advance("job-1", at, "RUNNING") is None
    ended = bench.store.advance("job-1", at, "FINISHED:ABORTED", "site-1 cooperative")
    assert ended is not None
    assert (ended.finished, ended.abort_requested, ended.abort) == (True, False, record.abort)


def test_the_first_abort_counts_and_an_ended_job_is_not_changed(bench: StoreBench) -> None:
    bench.running()
    first = bench.store.request_abort("job-1", "bob", "wrong")
    assert bench.store.request_abort("job-1", "eve", "no") == first
    done = bench.finished("job-2")
    assert bench.store.request_abort("job-2", "eve") == done


def test_of_an_abort_and_a_dispatch_at_once_one_wins(bench: StoreBench) -> None:
    for number in range(20):
        job_id = bench.submit(f"job-{number}")
        steps: list[Callable[[], object]] = [
            partial(bench.store.advance, job_id, "SUBMITTED", "DISPATCHED"),
            partial(bench.store.request_abort, job_id, "bob"),
        ]
        moved, _ = together(steps)
        record = bench.get(job_id)
        assert record.status == ("DISPATCHED" if moved else "FINISHED:ABORTED")
        assert record.abort


def test_an_unknown_job_cannot_be_aborted(bench: StoreBench) -> None:
    with pytest.raises(JobUnknown, match="the store of server has no job gone"):
        bench.store.request_abort("gone", "bob")


# -- sites and reasons -------------------------------------------------------------------------------------------------


def test_the_record_has_the_status_of_each_site_and_its_time(bench: StoreBench) -> None:
    bench.running()
    assert bench.store.set_site("job-1", "site-2", "started")
    assert bench.store.set_site(
        "job-1", "site-1", "stopped", exit_code=9, reason="aborted", how="killed", agents={"a": "killed"}
    )
    sites = bench.get().sites
    assert list(sites) == ["site-1", "site-2"]
    assert sites["site-1"] == SiteState(
        status="stopped", at=sites["site-1"].at, exit_code=9, reason="aborted", how="killed", agents={"a": "killed"}
    )
    assert (sites["site-2"].exit_code, sites["site-2"].how) == (None, "")
    before = sites["site-2"].at
    bench.connection.call("HSET", bench.keys.record("job-1"), "site:site-2", _older(bench, "site:site-2"))
    bench.store.set_site("job-1", "site-2", "started")
    assert bench.get().sites["site-2"].at == before - 1000
    bench.store.set_site("job-1", "site-2", "stopped", exit_code=0)
    assert bench.get().sites["site-2"].at >= before


def test_the_record_has_the_reason_of_a_wait_and_its_time_until_the_wait_ends(bench: StoreBench) -> None:
    bench.submit()
    assert bench.get().waiting is None
    bench.store.set_waiting("job-1", "1 of 2 sites is there")
    waiting = bench.get().waiting
    assert waiting is not None
    bench.connection.call("HSET", bench.keys.record("job-1"), "waiting", _older(bench, "waiting"))
    bench.store.set_waiting("job-1", "1 of 2 sites is there")
    again = bench.get().waiting
    assert again is not None
    assert (again.reason, again.at) == ("1 of 2 sites is there", waiting.at - 1000)
    bench.store.advance("job-1", "SUBMITTED", "DISPATCHED")
    assert bench.get().waiting is None


def test_nothing_is_recorded_for_an_unknown_job_and_no_wait_for_an_ended_one(bench: StoreBench) -> None:
    assert not bench.store.set_site("gone", "site-1", "started")
    assert not bench.store.set_waiting("gone", "why")
    assert bench.names() == []
    bench.finished()
    assert bench.store.set_waiting("job-1", "why")
    assert bench.store.set_site("job-1", "site-1", "stopped", exit_code=0)
    assert bench.get().waiting is None
    assert bench.get().sites["site-1"].exit_code == 0


def test_an_invalid_site_name_is_refused(bench: StoreBench) -> None:
    bench.submit()
    with pytest.raises(ConfigError, match="site 1"):
        bench.store.set_site("job-1", "site 1", "started")


def test_a_long_reason_is_cut_and_one_that_is_no_text_is_made_one(bench: StoreBench) -> None:
    bench.submit()
    record = bench.store.advance("job-1", "SUBMITTED", "FINISHED:ABNORMAL", "ü" * 9_000)
    assert record is not None
    assert len(record.reason.encode()) <= 8_192
    assert record.reason.endswith("ü...")
    bench.submit("job-2")
    record = bench.store.advance("job-2", "SUBMITTED", "FINISHED:ABNORMAL", "lone \ud800 half")
    assert record is not None
    assert record.reason == "lone ? half"


def _older(bench: StoreBench, name: str) -> bytes:
    """Return a note as if it had been written a second earlier."""
    text = bench.connection.call("HGET", bench.keys.record("job-1"), name)
    assert isinstance(text, bytes)
    at = orjson.loads(text)["at"]
    return text.replace(b"%d" % at, b"%d" % (at - 1000))


# -- reading -----------------------------------------------------------------------------------------------------------


def test_jobs_are_listed_oldest_first_and_by_status(bench: StoreBench) -> None:
    for number, job_id in enumerate(("c", "a", "b")):
        bench.submit(job_id)
        bench.connection.call("ZADD", bench.keys.jobs, number, job_id)
    bench.store.advance("a", "SUBMITTED", "RUNNING")
    bench.store.request_abort("b", "ann")
    assert [record.id for record in bench.store.list()] == ["c", "a", "b"]
    assert [record.id for record in bench.store.list(UNFINISHED)] == ["c", "a"]
    assert [record.id for record in bench.store.list(FINISHED)] == ["b"]
    assert [record.id for record in bench.store.list(["RUNNING"])] == ["a"]
    assert bench.store.list([]) == []


def test_an_empty_store_has_no_jobs(bench: StoreBench) -> None:
    assert (bench.store.list(), bench.store.get("job-1"), bench.store.renew([])) == ([], None, set())


def test_many_jobs_are_listed(bench: StoreBench) -> None:
    for number in range(300):
        bench.submit(f"job-{number}")
    assert len(bench.store.list(UNFINISHED)) == 300


def test_an_expired_job_is_removed_from_the_list(bench: StoreBench) -> None:
    bench.submit("old"), bench.submit("new")
    bench.connection.call("DEL", bench.keys.record("old"))
    assert [record.id for record in bench.store.list(FINISHED)] == []
    assert bench.connection.call("ZRANGE", bench.keys.jobs, 0, -1) == [b"new"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("status", b"DONE"),
        ("meta", b"["),
        ("meta", b"7"),
        ("history", b'[{"status":1}]'),
        ("history", b"7"),
        ("submitted", b"soon"),
        ("site:site-1", b"[]"),
        ("site:site-1", b"{}"),
        ("waiting", b"no"),
        ("abort", b"\xff"),
        ("archive", b"{}"),
        ("archive", b'{"prefix":"flare:{server}:blob:x","chunk":1,"sizes":[1],"sha256":"short"}'),
        ("result", b'{"prefix":"flare:{other}:blob:x","chunk":1,"sizes":[1],"sha256":"%s"}' % (b"0" * 64)),
    ],
)
def test_a_foreign_record_is_reported_and_does_not_hide_other_jobs(
    bench: StoreBench, caplog: pytest.LogCaptureFixture, name: str, value: bytes
) -> None:
    bench.submit(), bench.submit("job-2")
    bench.connection.call("HSET", bench.keys.record("job-1"), name, value)
    with pytest.raises(DecodeError, match="job:job-1:record is not the record of a job"):
        bench.store.get("job-1")
    assert [record.id for record in bench.store.list()] == ["job-2"]
    assert ("job:job-1:record" in caplog.text) == (value != b"DONE")


def test_a_record_is_converted_to_json(bench: StoreBench) -> None:
    bench.running()
    bench.store.set_site("job-1", "site-1", "started")
    record = orjson.loads(orjson.dumps(bench.get().to_json()))
    assert (record["id"], record["status"], record["finished"], record["archive_bytes"], record["result_bytes"]) == (
        *("job-1", "RUNNING", False, len(ARCHIVE), None),
    )
    assert record["history"][1]["reason"] == "2 sites"
    assert record["sites"]["site-1"]["status"] == "started"
    assert "sha256" not in str(record)


def test_a_record_can_be_read_with_hgetall(bench: StoreBench) -> None:
    bench.running()
    reply = bench.connection.call("HGETALL", bench.keys.record("job-1"))
    assert isinstance(reply, list)
    words = [word.decode() for word in reply if isinstance(word, bytes)]
    fields = dict(zip(words[::2], words[1::2], strict=True))
    assert {"status": "RUNNING", "name": "hello", "submitter": "ann", "abort": "0"}.items() <= fields.items()
    assert [change["status"] for change in orjson.loads(fields["history"])] == ["SUBMITTED", "DISPATCHED", "RUNNING"]


# -- living on and going -----------------------------------------------------------------------------------------------


def test_every_key_has_a_ttl_in_every_state(bench: StoreBench) -> None:
    bench.running()
    bench.store.append_log("job-1", "site-1", ["line"])
    bench.store.put_result("job-1", b"result")
    for _ in range(2):
        ttls = bench.ttls_ms()
        assert len(ttls) == 7
        assert all(0 < left <= WEEK_MS for left in ttls.values())
        bench.store.advance("job-1", "RUNNING", "FINISHED:COMPLETED")


def test_a_job_is_kept_while_the_server_renews_it(bench: StoreBench) -> None:
    bench.running()
    for name in bench.names():
        bench.connection.call("PEXPIRE", f"{bench.keys.prefix}:{name}", WEEK_MS // 2 - 1000)
    assert bench.store.renew(["job-1", "gone"]) == {"gone"}
    ttls = bench.ttls_ms()
    assert ttls.pop("inbox:operator") < WEEK_MS // 2
    assert ttls.pop("senders") < WEEK_MS // 2
    assert all(left > WEEK_MS - 60_000 for left in ttls.values())


def test_a_renewal_leaves_long_ttls_and_ended_jobs_unchanged(bench: StoreBench) -> None:
    bench.running()
    bench.finished("job-2")
    for job_id, left in (("job-1", WEEK_MS // 2 + 60_000), ("job-2", 60_000)):
        bench.connection.call("PEXPIRE", bench.keys.record(job_id), left)
        assert bench.store.renew([job_id]) == set()
        assert left - 30_000 < bench.ttl_ms(bench.keys.record(job_id)) <= left


def test_chunks_never_expire_before_the_record_that_names_them(bench: StoreBench) -> None:
    bench.running()
    for step in (
        lambda: bench.store.put_result("job-1", b"result"),
        lambda: bench.store.set_site("job-1", "site-1", "started"),
        lambda: bench.store.append_log("job-1", "site-1", ["line"]),
        lambda: bench.store.advance("job-1", "RUNNING", "FINISHED:COMPLETED"),
        lambda: bench.store.put_result("job-1", b"later"),
    ):
        for name in bench.names():
            bench.connection.call("PEXPIRE", f"{bench.keys.prefix}:{name}", 1_000_000)
        step()
        # read before the record's, for time passes between two readings
        others = [bench.ttl_ms(f"{bench.keys.prefix}:{chunk}") for chunk in bench.chunks()]
        others.append(bench.ttl_ms(bench.keys.jobs))
        record = bench.ttl_ms(bench.keys.record("job-1"))
        assert record > 900_000
        assert all(ttl >= record - 50 for ttl in others), (record, others)


def test_an_ended_job_is_deleted_with_all_its_keys(bench: StoreBench) -> None:
    bench.finished()
    bench.store.put_result("job-1", b"result")
    bench.store.append_log("job-1", "site-1", ["line"])
    bench.store.delete("job-1")
    assert bench.names() == ["deleted", "inbox:operator", "senders"]
    assert (bench.store.get("job-1"), bench.store.list()) == (None, [])
    bench.store.delete("job-1")


def test_the_agents_of_a_job_are_in_its_record_also_when_it_is_restored(bench: StoreBench) -> None:
    running = bench.running()
    assert running.agents == {}
    assert bench.store.set_agents("job-1", {"app": ["trainer", "gpu-2"]}, running.submission)
    assert not bench.store.set_agents("job-1", {"app": ["another's"]}, "another")
    known = bench.get()
    assert known.agents == {"app": ("trainer", "gpu-2")}
    bench.connection.call("FLUSHALL")
    bench.store.restore(known)
    assert bench.get().agents == known.agents


def test_a_job_whose_abort_was_asked_for_is_restored_with_that(bench: StoreBench) -> None:
    bench.running()
    known = bench.store.request_abort("job-1", "bob", "why")
    bench.connection.call("FLUSHALL")
    bench.store.restore(known)
    found = bench.get()
    assert (found.abort, found.abort_by, found.abort_reason) == (known.abort, "bob", "why")
    assert found.abort_requested


def test_an_operator_keeps_jobs_as_long_as_their_server_does(bench: StoreBench) -> None:
    assert JobStore.as_server_keeps_it(bench.server, Keys()).policy == JobRetentionPolicy()
    JobStore(bench.server, Keys(), JobRetentionPolicy(job_retention=50.0, file_bytes=7)).publish()
    operator = JobStore.as_server_keeps_it(bench.server, Keys())
    assert operator.policy == JobRetentionPolicy(job_retention=50.0, file_bytes=7)
    with pytest.raises(MessageTooLarge):
        operator.submit(META, ARCHIVE, "large")
    operator.submit(META, b"small", "job-1")
    assert 40_000 < bench.ttl_ms(bench.keys.record("job-1")) <= 50_000
    assert 40_000 < bench.ttl_ms(bench.keys.policy) <= 50_000


def test_a_renewal_publishes_the_policy_again_which_redis_may_have_lost(bench: StoreBench) -> None:
    policy = JobRetentionPolicy(job_retention=50.0)
    JobStore(bench.server, Keys(), policy).renew([])
    assert JobStore.as_server_keeps_it(bench.server, Keys()).policy == policy
    assert 0 < bench.ttl_ms(bench.keys.policy) <= 50_000


@pytest.mark.parametrize(
    "written", ["", "[]", '{"job_retention": "long"}', '{"job_retention": 0}', '{"log_lines": true}']
)
def test_a_policy_that_somebody_else_has_written_is_reported(bench: StoreBench, written: str) -> None:
    bench.connection.call("SET", bench.keys.policy, written)
    with pytest.raises(DecodeError, match="does not say how long jobs are kept"):
        JobStore.as_server_keeps_it(bench.server, Keys())


def test_a_limit_that_only_a_later_server_knows_is_left_out(bench: StoreBench) -> None:
    bench.connection.call("SET", bench.keys.policy, '{"job_retention": 9, "later": 1}')
    assert JobStore.as_server_keeps_it(bench.server, Keys()).policy == JobRetentionPolicy(job_retention=9)


def test_deletions_are_remembered_by_submission_and_the_oldest_are_forgotten(bench: StoreBench) -> None:
    store = JobStore(bench.server, Keys(), JobRetentionPolicy(deletions=2))
    assert store.deletions() == {}
    submissions = []
    for job_id in ("job-1", "job-2", "job-1"):
        submissions.append(bench.finished(job_id).submission)
        for _ in range(2):
            store.delete(job_id)
    assert store.deletions() == {submissions[1]: "job-2", submissions[2]: "job-1"}


def test_the_deletion_of_a_job_that_is_not_there_is_not_remembered(bench: StoreBench) -> None:
    bench.store.delete("job-1")
    assert bench.store.deletions() == {}


def test_what_is_remembered_of_deletions_is_renewed_with_the_jobs(bench: StoreBench) -> None:
    bench.finished()
    bench.store.delete("job-1")
    bench.connection.call("PEXPIRE", bench.keys.deleted, 5_000)
    bench.store.renew([])
    assert bench.ttl_ms(bench.keys.deleted) > 600_000_000


@pytest.mark.parametrize("at", UNFINISHED)
def test_a_job_that_has_not_ended_cannot_be_deleted(bench: StoreBench, at: str) -> None:
    bench.submit()
    bench.store.advance("job-1", "SUBMITTED", at)
    with pytest.raises(JobUnfinished, match=f"job job-1 is {at} and cannot be deleted: abort it"):
        bench.store.delete("job-1")
    assert bench.store.read_archive("job-1") == ARCHIVE


def test_an_id_that_was_deleted_can_be_used_again(bench: StoreBench) -> None:
    bench.finished()
    bench.store.delete("job-1")
    bench.store.submit({"name": "other"}, b"other", "job-1")
    assert (bench.get().name, bench.get().status, len(bench.get().history)) == ("other", "SUBMITTED", 1)


def test_a_step_that_names_the_submission_of_a_lost_job_changes_nothing_of_the_next_one(bench: StoreBench) -> None:
    lost = bench.running()
    bench.connection.call("FLUSHALL")
    bench.running()
    before, chunks, store = bench.content(), bench.chunks(), bench.store
    assert store.advance("job-1", "RUNNING", "FINISHED:COMPLETED", submission=lost.submission) is None
    assert not store.set_site("job-1", "site-1", "stopped", submission=lost.submission)
    assert not store.append_log("job-1", "site-1", ["a line"], submission=lost.submission)
    assert not store.restore(lost)
    with pytest.raises(JobUnknown, match="job-1"):
        store.put_result("job-1", b"result", submission=lost.submission)
    assert (bench.content(), bench.chunks()) == (before, chunks)


def test_two_servers_have_stores_of_their_own(bench: StoreBench) -> None:
    other = JobStore(bench.server, Keys().store("server-2"))
    bench.submit()
    assert (other.list(), other.get("job-1")) == ([], None)
    assert repr(other).startswith("<JobStore of server-2 in ")


def test_a_policy_sets_how_long_jobs_are_kept() -> None:
    redis = fakeredis.FakeRedis(server=fakeredis.FakeServer())
    with Server.connect(client=redis) as server, server.borrow("any") as connection:
        bench = StoreBench(server, connection, policy=JobRetentionPolicy(job_retention=60, event_retention=5))
        bench.submit()
        ttls = bench.ttls_ms()
        assert max(ttls.pop("inbox:operator"), ttls.pop("senders")) <= 5_000
        assert all(5_000 < left <= 60_000 for left in ttls.values())


# -- safe to run twice -------------------------------------------------------------------------------------------------


def test_every_step_that_is_run_twice_returns_the_same_and_changes_nothing_more(bench: StoreBench) -> None:
    change = b'{"status":"FINISHED:ABORTED","reason":"","by":"ann"}'
    bench.submit()
    stored = bench.store._steps.upload("job-1-result", b"result")
    archive = bench.store._steps.upload("job-2-archive", b"archive")
    fields: list[Arg] = ["meta", b"{}", "fingerprint", "f"]
    one, two = bench.values("job-1"), bench.values("job-2")
    why: dict[str, Arg] = {"change": change, "reason": "why"}
    line: dict[str, Arg] = {"batch": "batch-1", "site": "site-1", "level": ""}
    steps = {
        "submit": ("job-2", submission(bench, "job-2", archive, 1, fields, change)),
        "note": ("job-1", SET_FIELD.command(one, field="waiting", value=b'{"reason":"why"}')),
        "advance": ("job-1", ADVANCE.command(one, ["SUBMITTED"], step="step-1", status="RUNNING", **why)),
        "log": ("job-1", LOG.command(one, [b"a", b"b"], **line)),
        "result": ("job-1", result(bench, "job-1", stored, stored.blob.chunks)),
        "abort": ("job-1", ABORT.command(one, by="bob", **why)),
        "early abort": ("job-2", ABORT.command(two, by="bob", **why)),
        "end": ("job-1", ADVANCE.command(one, ["RUNNING"], step="step-2", status="FINISHED:ABORTED", **why)),
        "renew": ("job-1", RENEW.command(one)),
        "delete": ("job-1", DELETE.command(one)),
        "restore": (
            "job-1",
            RESTORE.command(bench.values("job-1", "s1"), ["status", "RUNNING", "submission", "s1"], submitted=7),
        ),
    }
    for name, (job_id, command) in steps.items():
        first, stood, chunks = bench.run(command), bench.content(job_id), bench.chunks()
        assert isinstance(first, list)
        assert first[0] == b"OK", name
        assert bench.run(command) == first, name
        assert (bench.content(job_id), bench.chunks()) == (stood, chunks), name


def test_a_submission_whose_reply_was_lost_has_its_archive_although_it_is_sent_again(bench: StoreBench) -> None:
    bench.submit()
    command = [*_sent_submission(bench)]
    assert bench.run(command) == [b"OK"]
    assert bench.store.read_archive("job-1") == ARCHIVE


def _sent_submission(bench: StoreBench) -> list[Arg]:
    """The command that submitted the job."""
    file = bench.get().archive
    assert file is not None
    return submission(bench, "job-1", file, 1)
