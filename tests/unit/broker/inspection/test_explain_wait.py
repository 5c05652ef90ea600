"""Why a task of a job is not done, in words, for every kind of task and every state of its sites."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from redflare_broker.inspection.explain_wait import why_job_waits, why_not_done
from redflare_broker.inspection.job_presence import JobPresence
from redflare_broker.inspection.job_view import ClientTaskView, JobTask, JobView, SiteView

NOW = 1_000_000_000


def ago(seconds: float) -> int:
    return NOW - round(seconds * 1000)


def present(**fields: Any) -> JobPresence:
    known = {"state": "connected", "instance": "vm:1:a", "since_ms": ago(600), "beat_age": 1.0, "beat_ttl": 60.0}
    return JobPresence(**{**known, "now": NOW, **fields})


HERE = present()
SILENT = present(state="silent", beat_age=40.0)
GONE = present(state="gone", beat_age=None)
LEFT = present(state="left", left_ms=ago(180))


def share(site: str, sent: float = 12, received: float | None = None, count: int = 1) -> ClientTaskView:
    """A site has had the task since ``sent`` seconds, and has answered ``received`` seconds ago."""
    done = ago(received) if received is not None else 0
    return ClientTaskView(id=f"{site}-ct", site=site, sent=ago(sent), count=count, received=done, rc="", now=NOW)


def task(kind: str = "broadcast", *shares: ClientTaskView, targets: str | None = None, **fields: Any) -> JobTask:
    options = {name: fields.pop(name) for name in list(fields) if name not in JobTask.__dataclass_fields__}
    known = {"root_id": "t1", "name": "train", "order": 1, "status": "STANDING", "timeout": 0, "ended": 0, "now": NOW}
    names = None if targets is None else tuple(targets.split())
    return JobTask(
        **{**known, "kind": kind, "scheduled": ago(60), **fields},
        targets=names,
        options=options,
        client_tasks=shares,
    )


def site(number: int, attendance: JobPresence = HERE, **fields: Any) -> SiteView:
    return SiteView(name=f"site-{number}", cell=f"site-{number}.job-7", attendance=attendance, **fields)


def job(*sites: SiteView, **fields: Any) -> JobView:
    known: dict[str, Any] = {"status": "RUNNING", "reason": "", "run": "r1", "previous": "", "began": "NEW"}
    times = {"begun": ago(90), "started": ago(90), "ended": 0, "checkpoint": 0}
    whole = {"fqcn": "server.job-7", "server": HERE, "sites": sites, "tasks": (), "now": NOW}
    return JobView(**{**known, **times, **whole, **fields})


def said(task: JobTask, *sites: SiteView) -> str:
    return why_not_done(task, job(*sites or [site(number) for number in (1, 2, 3)]))


OTHER = (("t0", "validate", share("site-2", 30)),)


@pytest.mark.parametrize(
    ("standing", "sites", "words"),
    [
        pytest.param(
            task(),
            [site(1)],
            "waits for anybody to ask: site-1 has not asked for it",
            id="nobody has asked",
        ),
        pytest.param(task(), [site(1, LEFT)], "waits for anybody to ask", id="a site that has left is not awaited"),
        pytest.param(
            task("broadcast", share("site-1", 20, 5), share("site-3"), targets="site-1 site-3"),
            [],
            "waits for site-3, which has had it for 12 s",
            id="all results are needed and one is missing",
        ),
        pytest.param(
            task("broadcast", share("site-1"), share("site-2", 50, count=3), targets="site-1 site-2 site-3 site-4"),
            [site(1), site(2, SILENT), site(3, has=OTHER)],
            "waits for 4 sites: site-1 has had it for 12 s; site-2 has had it for 50 s (sent 3 times) and has been "
            "silent for 40 s; site-3 has 'validate' to do, for 30 s; and 1 more",
            id="several are missing, each for a reason of its own",
        ),
        pytest.param(
            task("broadcast", share("site-1", 20, 5), targets="site-1 site-4"),
            [],
            "waits for site-4, which has not joined",
            id="a target that has not joined",
        ),
        pytest.param(
            task("broadcast", share("site-1", 20, 5), targets="site-1 site-2"),
            [site(1), site(2, GONE)],
            "waits for site-2, which has been silent for more than 1 min, its heartbeat has expired",
            id="a target whose heartbeat has expired",
        ),
        pytest.param(
            task("broadcast", share("site-1", 20, 5), targets="site-1 site-2"),
            [site(1), site(2, LEFT)],
            "waits for site-2, which left 3 min ago",
            id="a target that has left",
        ),
        pytest.param(
            task("broadcast", share("site-1", 20, 5), targets="site-1 site-2"),
            [site(1), site(2, asks_since=ago(4))],
            "waits for site-2, which has asked for a task 4 s ago and has not got it yet",
            id="a target that asks in vain",
        ),
        pytest.param(
            task("broadcast", share("site-1"), targets="site-1"),
            [site(1, brings={"site-1-ct": ago(2)})],
            "waits for site-1, which brought its result 2 s ago, the server has it in hand",
            id="a result that stands in the inbox",
        ),
        pytest.param(
            task("broadcast", share("site-9"), targets="site-9"),
            [],
            "waits for site-9, which has had it for 12 s and is not on the roll",
            id="a holder that the roll has lost",
        ),
        pytest.param(
            task("broadcast", share("site-1", 20, 5), share("site-2", 20, 4), share("site-3"), min_responses=3),
            [],
            "waits for 1 more of at least 3 results: site-3 has had it for 12 s",
            id="too few results",
        ),
        pytest.param(
            task("broadcast", share("site-1", 20, 5), min_responses=3),
            [site(1)],
            "waits for 2 more of at least 3 results: no other site has joined",
            id="too few sites",
        ),
        pytest.param(
            task(
                "broadcast",
                share("site-1", 20, 5),
                share("site-2", 20, 4),
                min_responses=2,
                wait_time_after_min_received=10,
            ),
            [site(1), site(2), site(3)],
            "has 2 of at least 2 results and waits 6 s longer for more: site-3 has not asked for it",
            id="enough results, but more may come",
        ),
        pytest.param(
            task("broadcast", share("site-1", 20, 5), share("site-2"), min_responses=1),
            [],
            "has 1 of at least 1 results, and ends now unless some of them do not count: site-2 has had it for 12 s; "
            "site-3 has not asked for it",
            id="enough results, and it still stands",
        ),
        pytest.param(
            task("broadcast", share("site-1", 20, 5), min_responses=1),
            [site(1)],
            "has 1 of at least 1 results and is about to end",
            id="everybody has answered",
        ),
        pytest.param(
            task("broadcast_forever", share("site-1"), share("site-2", 20, 5)),
            [],
            "goes to whoever asks, until it is cancelled or times out: site-1 has had it for 12 s",
            id="a broadcast without end",
        ),
        pytest.param(
            task("send", share("site-1"), targets="site-1 site-2", send_order="any"),
            [],
            "waits for site-1, which has had it for 12 s",
            id="a send that one has",
        ),
        pytest.param(
            task("send", targets="site-1 site-2", send_order="any"),
            [site(1), site(2, SILENT)],
            "waits for one of its targets to ask: site-1 has not asked for it; site-2 has been silent for 40 s",
            id="a send for whoever asks first",
        ),
        pytest.param(
            task("send", send_order="any"),
            [site(1, has=OTHER)],
            "waits for anybody to ask: site-1 has 'validate' to do, for 30 s",
            id="a send without targets",
        ),
        pytest.param(
            task(
                "send",
                targets="site-1 site-2 site-3",
                send_order="sequential",
                task_assignment_timeout=20,
                scheduled=ago(15),
            ),
            [],
            "waits for site-1, which has not asked for it; site-2 may have it too in 5 s",
            id="a send in order, in the time of the first",
        ),
        pytest.param(
            task(
                "send",
                targets="site-1 site-2",
                send_order="sequential",
                task_assignment_timeout=20,
                scheduled=ago(25),
            ),
            [],
            "waits for 2 sites: site-1 has not asked for it; site-2 has not asked for it",
            id="a send in order, in the time of the last",
        ),
        pytest.param(
            task("relay", share("site-1"), targets="site-1 site-2", send_order="sequential", task_result_timeout=30),
            [],
            "waits for site-1, which has had it for 12 s; is passed on in 18 s unless it answers; "
            "next in the relay is site-2",
            id="a relay that one has",
        ),
        pytest.param(
            task(
                "relay",
                share("site-1", 20, 5),
                targets="site-1 site-4 site-2",
                send_order="sequential",
                task_assignment_timeout=10,
            ),
            [],
            "next in the relay: waits for site-4, which has not joined; site-2 may have it too in 5 s",
            id="the next of a relay has not asked",
        ),
        pytest.param(
            task(
                "relay",
                share("site-1", 31),
                targets="site-1 site-2 site-3",
                send_order="sequential",
                task_result_timeout=30,
                task_assignment_timeout=10,
            ),
            [],
            "next in the relay: waits for site-2, which has not asked for it; site-3 may have it too in 9 s",
            id="one that does not answer is passed over",
        ),
        pytest.param(
            task(
                "relay",
                share("site-1", 40, 30),
                share("site-2", 20, 5),
                targets="site-1 site-2 site-1 site-2",
                send_order="sequential",
            ),
            [],
            "next in the relay: waits for site-1, which has not asked for it",
            id="a relay of two rounds knows its place",
        ),
        pytest.param(
            task("relay", share("site-1", 20, 5), targets="site-1 site-2 site-3", send_order="any"),
            [site(2), site(3, LEFT)],
            "waits for 2 sites: site-2 has not asked for it; site-3 left 3 min ago",
            id="a relay in any order",
        ),
        pytest.param(
            task("relay", send_order="any", dynamic_targets=True),
            [site(1)],
            "waits for anybody to ask: site-1 has not asked for it",
            id="a relay without targets",
        ),
        pytest.param(
            task("relay", share("site-1", 20, 5), targets="site-1", send_order="sequential"),
            [],
            "everybody has had it, it is about to end",
            id="a relay that is through",
        ),
        pytest.param(task("dance"), [], "it is of a kind that is not known here: 'dance'", id="a kind of later"),
    ],
)
def test_a_task_says_what_it_waits_for(standing: JobTask, sites: list[SiteView], words: str) -> None:
    assert said(standing, *sites) == words


def test_a_task_whose_payload_is_gone_says_so() -> None:
    standing = task("broadcast", share("site-1"), blob="flare:blob:{b}", blob_bytes=20, stored=10)

    assert said(standing) == (
        "waits for site-1, which has had it for 12 s; its data is not in Redis any more and is stored anew when a site "
        "misses it"
    )


def test_a_job_without_its_server_says_so_first() -> None:
    waiting = why_not_done(task("broadcast", share("site-1")), job(site(1), server=SILENT))

    assert waiting == (
        "nobody serves the job, the server has been silent for 40 s; waits for site-1, which has had it for 12 s"
    )


@pytest.mark.parametrize(
    ("whole", "words"),
    [
        (job(), "waits for sites: none has joined"),
        (job(site(1, SILENT), site(2, LEFT)), "waits for sites: none of 2 is connected"),
        (job(site(1)), "no task stands, its controller is at work"),
        (job(site(1), server=LEFT), "waits for a server: the last one left 3 min ago"),
        (job(site(1), status="", server=JobPresence(state="never")), "waits for a server: there has never been one"),
        (job(site(1), status=""), "its server is there and has not begun yet"),
        (job(site(1), tasks=(task(waiting="waits for anybody to ask"),)), "train waits for anybody to ask"),
        (
            job(site(1), tasks=(task(waiting="waits for anybody to ask"), task(), task())),
            "train waits for anybody to ask; and 2 more tasks",
        ),
        (job(status="FINISHED:COMPLETED", reason="FINISHED:COMPLETED", ended=ago(180)), "FINISHED:COMPLETED 3 min ago"),
        (
            job(status="FINISHED:ABORTED", reason="FINISHED:ABORTED: by me", ended=ago(3)),
            "FINISHED:ABORTED 3 s ago: by me",
        ),
    ],
)
def test_a_job_says_what_it_waits_for(whole: JobView, words: str) -> None:
    assert why_job_waits(whole) == words


def test_times_of_a_clock_that_is_ahead_are_now() -> None:
    ahead = replace(share("site-1"), sent=NOW + 5_000)

    assert said(task("broadcast", ahead)) == "waits for site-1, which has had it for 0 s"
