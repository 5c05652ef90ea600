"""The reason why a task of a job is not done, for every kind of task and every state of its sites."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from redflare_broker.inspection.explain_wait import why_job_waits, why_not_done
from redflare_broker.inspection.job_view import ClientTaskView, JobTaskView, JobView, SiteView
from redflare_broker.inspection.presence import JobPresence
from redflare_broker.job_state.task_record import ClientTaskRecord, TaskRecord

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


def share(site: str, sent: float = 12, received: float | None = None, count: int = 1) -> ClientTaskRecord:
    """The client task of a site: sent ``sent`` seconds ago, answered ``received`` seconds ago."""
    done = ago(received) / 1000 if received is not None else 0
    return ClientTaskRecord(id=f"{site}-ct", client=site, sent=ago(sent) / 1000, count=count, received=done)


def task(kind: str = "broadcast", *shares: ClientTaskRecord, targets: str | None = None, **fields: Any) -> JobTaskView:
    """Return an open task; fields that neither record nor view have are options of its scheduling."""
    view = {name: fields.pop(name) for name in list(fields) if name in JobTaskView.__dataclass_fields__}
    known = {name: fields.pop(name) for name in list(fields) if name in TaskRecord.__dataclass_fields__}
    names = None if targets is None else tuple(targets.split())
    record = TaskRecord(
        **{"root_id": "t1", "name": "train", "order": 1, "kind": kind, "scheduled": ago(60) / 1000, **known},
        targets=names,
        options=fields,
        client_tasks=shares,
    )
    return JobTaskView(record=record, now=NOW, **view)


def site(number: int, presence: JobPresence = HERE, **fields: Any) -> SiteView:
    return SiteView(name=f"site-{number}", cell=f"site-{number}.job-7", presence=presence, **fields)


def job(*sites: SiteView, **fields: Any) -> JobView:
    known: dict[str, Any] = {"status": "RUNNING", "reason": "", "run": "r1", "previous": "", "began": "NEW"}
    times = {"begun": ago(90), "started": ago(90), "ended": 0, "checkpoint": 0}
    whole = {"fqcn": "server.job-7", "server": HERE, "sites": sites, "tasks": (), "now": NOW}
    return JobView(**{**known, **times, **whole, **fields})


def explained(task: JobTaskView, *sites: SiteView) -> str:
    return why_not_done(task, job(*sites or [site(number) for number in (1, 2, 3)]))


OTHER = (("t0", "validate", ClientTaskView(record=share("site-2", 30), now=NOW)),)


@pytest.mark.parametrize(
    ("open_task", "sites", "words"),
    [
        pytest.param(
            task(),
            [site(1)],
            "waiting for any site to request it: site-1 (has not requested it)",
            id="no site has requested it",
        ),
        pytest.param(
            task(), [site(1, LEFT)], "waiting for any site to request it", id="a site that has left is not waited for"
        ),
        pytest.param(
            task("broadcast", share("site-1", 20, 5), share("site-3"), targets="site-1 site-3"),
            [],
            "waiting for site-3 (sent 12 s ago)",
            id="all results are needed and one is missing",
        ),
        pytest.param(
            task("broadcast", share("site-1"), share("site-2", 50, count=3), targets="site-1 site-2 site-3 site-4"),
            [site(1), site(2, SILENT), site(3, working_on=OTHER)],
            "waiting for 4 sites: site-1 (sent 12 s ago), site-2 (sent 3 times, last 50 s ago; silent for 40 s), "
            "site-3 (working on 'validate' for 30 s) and 1 more",
            id="several are missing, each for another reason",
        ),
        pytest.param(
            task("broadcast", share("site-1", 20, 5), targets="site-1 site-4"),
            [],
            "waiting for site-4 (has not joined)",
            id="a target that has not joined",
        ),
        pytest.param(
            task("broadcast", share("site-1", 20, 5), targets="site-1 site-4", absent_after=100),
            [],
            "waiting for site-4 (has not joined; awaited 40 s longer)",
            id="a target that has not joined is awaited for a while",
        ),
        pytest.param(
            task("broadcast", share("site-1"), targets="site-1 site-4", absent_after=30),
            [],
            "waiting for 2 sites: site-1 (sent 12 s ago), site-4 (has not joined, not awaited)",
            id="a target that has not joined is not awaited any more",
        ),
        pytest.param(
            task("send", targets="site-4 site-2", send_order="sequential", absent_after=30),
            [],
            "waiting for site-2 (has not requested it)",
            id="a target that has not joined is passed over",
        ),
        pytest.param(
            task("send", targets="site-4", send_order="sequential", absent_after=30),
            [],
            "waiting for site-4 (has not joined, not awaited)",
            id="the only target has not joined and is not awaited",
        ),
        pytest.param(
            task("send", targets="site-4 site-2", send_order="sequential", absent_after=100),
            [],
            "waiting for site-4 (has not joined; awaited 40 s longer)",
            id="a target that has not joined is not passed over yet",
        ),
        pytest.param(
            task("relay", targets="site-4 site-2", send_order="sequential", absent_after=30),
            [],
            "next in the relay: waiting for site-2 (has not requested it)",
            id="a target of a relay that has not joined is passed over",
        ),
        pytest.param(
            task("broadcast", share("site-1", 20, 5), targets="site-1 site-2"),
            [site(1), site(2, GONE)],
            "waiting for site-2 (no heartbeat for more than 1 min)",
            id="a target whose heartbeat has expired",
        ),
        pytest.param(
            task("broadcast", share("site-1", 20, 5), targets="site-1 site-2"),
            [site(1), site(2, LEFT)],
            "waiting for site-2 (left 3 min ago)",
            id="a target that has left",
        ),
        pytest.param(
            task("broadcast", share("site-1", 20, 5), targets="site-1 site-2"),
            [site(1), site(2, requested=ago(4))],
            "waiting for site-2 (requested a task 4 s ago, not sent yet)",
            id="a target whose request is not answered yet",
        ),
        pytest.param(
            task("broadcast", share("site-1"), targets="site-1"),
            [site(1, submitted={"site-1-ct": ago(2)})],
            "waiting for site-1 (submitted its result 2 s ago, the server is handling it)",
            id="a result in the inbox",
        ),
        pytest.param(
            task("broadcast", share("site-9"), targets="site-9"),
            [],
            "waiting for site-9 (sent 12 s ago; not a member of the job)",
            id="a site that is no longer a member",
        ),
        pytest.param(
            task("broadcast", share("site-1", 20, 5), share("site-2", 20, 4), share("site-3"), min_responses=3),
            [],
            "waiting for 1 more of at least 3 results: site-3 (sent 12 s ago)",
            id="too few results",
        ),
        pytest.param(
            task("broadcast", share("site-1", 20, 5), min_responses=3),
            [site(1)],
            "waiting for 2 more of at least 3 results: no other site has joined",
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
            "has 2 of at least 2 results, waiting 6 s longer for more: site-3 (has not requested it)",
            id="enough results, but more may come",
        ),
        pytest.param(
            task(
                "broadcast",
                share("site-1", 20, 5),
                share("site-2", 20, 4),
                share("site-3", 20, 1),
                min_responses=2,
                wait_time_after_min_received=10,
            ),
            [site(1), site(2), site(3), site(4)],
            "has 3 of at least 2 results, waiting 6 s longer for more: site-4 (has not requested it)",
            id="the time for more counts from the result that was enough",
        ),
        pytest.param(
            task("broadcast", share("site-1", 20, 5), share("site-2"), min_responses=1),
            [],
            "has 1 of at least 1 results, about to end unless some are not valid: site-2 (sent 12 s ago), "
            "site-3 (has not requested it)",
            id="enough results, and it is still open",
        ),
        pytest.param(
            task("broadcast", share("site-1", 20, 5), min_responses=1),
            [site(1)],
            "has 1 of at least 1 results, about to end",
            id="all sites have answered",
        ),
        pytest.param(
            task("broadcast_forever", share("site-1"), share("site-2", 20, 5)),
            [],
            "sent to any site that requests it, until it is cancelled or times out: site-1 (sent 12 s ago)",
            id="a broadcast without end",
        ),
        pytest.param(
            task("send", share("site-1"), targets="site-1 site-2", send_order="any"),
            [],
            "waiting for site-1 (sent 12 s ago)",
            id="a send that one site has",
        ),
        pytest.param(
            task("send", targets="site-1 site-2", send_order="any"),
            [site(1), site(2, SILENT)],
            "waiting for one of its targets to request it: site-1 (has not requested it), site-2 (silent for 40 s)",
            id="a send for the first site that requests it",
        ),
        pytest.param(
            task("send", send_order="any"),
            [site(1, working_on=OTHER)],
            "waiting for any site to request it: site-1 (working on 'validate' for 30 s)",
            id="a send without targets",
        ),
        pytest.param(
            task(
                "send",
                targets="site-1 site-2 site-3",
                send_order="sequential",
                task_assignment_timeout=20,
                scheduled=ago(15) / 1000,
            ),
            [],
            "waiting for site-1 (has not requested it); site-2 may request it too in 5 s",
            id="a send in order, in the time of the first",
        ),
        pytest.param(
            task(
                "send",
                targets="site-1 site-2",
                send_order="sequential",
                task_assignment_timeout=20,
                scheduled=ago(25) / 1000,
            ),
            [],
            "waiting for 2 sites: site-1 (has not requested it), site-2 (has not requested it)",
            id="a send in order, in the time of the last",
        ),
        pytest.param(
            task("relay", share("site-1"), targets="site-1 site-2", send_order="sequential", task_result_timeout=30),
            [],
            "waiting for site-1 (sent 12 s ago); passed on in 18 s unless it answers; next in the relay: site-2",
            id="a relay that one site has",
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
            "next in the relay: waiting for site-4 (has not joined); site-2 may request it too in 5 s",
            id="the next of a relay has not requested it",
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
            "next in the relay: waiting for site-2 (has not requested it); site-3 may request it too in 9 s",
            id="a site that does not answer is passed over",
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
            "next in the relay: waiting for site-1 (has not requested it)",
            id="a relay of two rounds knows its place",
        ),
        pytest.param(
            task(
                "relay",
                share("site-1", 40, 30),
                share("site-2", 29, 25),
                share("site-1", 20, 5),
                targets="site-1 site-2 site-1",
                send_order="sequential",
            ),
            [],
            "all targets have had it, about to end",
            id="a relay that ends with the site that it began with",
        ),
        pytest.param(
            task("relay", share("site-1", 20, 5), targets="site-1 site-1", send_order="any"),
            [site(1)],
            "waiting for site-1 (has not requested it)",
            id="a relay in any order that names a site twice",
        ),
        pytest.param(
            task("relay", share("site-1", 20, 5), targets="site-1 site-2 site-3", send_order="any"),
            [site(2), site(3, LEFT)],
            "waiting for 2 sites: site-2 (has not requested it), site-3 (left 3 min ago)",
            id="a relay in any order",
        ),
        pytest.param(
            task("relay", send_order="any", dynamic_targets=True),
            [site(1)],
            "waiting for any site to request it: site-1 (has not requested it)",
            id="a relay without targets",
        ),
        pytest.param(
            task("relay", share("site-1", 20, 5), targets="site-1", send_order="sequential"),
            [],
            "all targets have had it, about to end",
            id="a relay that all targets have had",
        ),
        pytest.param(task("dance"), [], "unknown kind of task: 'dance'", id="an unknown kind"),
    ],
)
def test_what_a_task_waits_for_is_explained(open_task: JobTaskView, sites: list[SiteView], words: str) -> None:
    assert explained(open_task, *sites) == words


def test_a_lost_payload_is_explained() -> None:
    open_task = task("broadcast", share("site-1"), blob="flare:blob:{b}", blob_bytes=20, stored=10)

    assert explained(open_task) == (
        "waiting for site-1 (sent 12 s ago); its data is no longer in Redis, the server stores it again when a site "
        "misses it"
    )


def test_a_missing_server_is_explained_first() -> None:
    waiting = why_not_done(task("broadcast", share("site-1")), job(site(1), server=SILENT))

    assert waiting == "no server runs the job (silent for 40 s); waiting for site-1 (sent 12 s ago)"


@pytest.mark.parametrize(
    ("whole", "words"),
    [
        (job(), "waiting for sites: none has joined"),
        (job(site(1, SILENT), site(2, LEFT)), "waiting for sites: 0 of 2 connected"),
        (job(site(1)), "no open task, the controller is working"),
        (job(site(1), server=LEFT), "waiting for a server (last one: left 3 min ago)"),
        (job(site(1), status="", server=JobPresence(state="never")), "waiting for a server (none seen yet)"),
        (job(site(1), status=""), "the server is connected and has not started the job yet"),
        (job(site(1), tasks=(task(waiting="waiting for site-1"),)), "train: waiting for site-1"),
        (
            job(site(1), tasks=(task(waiting="waiting for site-1"), task(), task())),
            "train: waiting for site-1; 2 more open tasks",
        ),
        (job(status="FINISHED:COMPLETED", reason="FINISHED:COMPLETED", ended=ago(180)), "FINISHED:COMPLETED 3 min ago"),
        (
            job(status="FINISHED:ABORTED", reason="FINISHED:ABORTED: by me", ended=ago(3)),
            "FINISHED:ABORTED 3 s ago: by me",
        ),
    ],
)
def test_what_a_job_waits_for_is_explained(whole: JobView, words: str) -> None:
    assert why_job_waits(whole) == words


def test_times_in_the_future_are_shown_as_now() -> None:
    ahead = replace(share("site-1"), sent=(NOW + 5_000) / 1000)

    assert explained(task("broadcast", ahead)) == "waiting for site-1 (sent 0 s ago)"
