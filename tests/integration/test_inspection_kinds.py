"""Views and tails work alike on every kind of Redis, on a cluster over all of its shards."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from redflare_broker.inspection.federation import Inspector
from redflare_broker.inspection.tail import Tail
from redflare_broker.transport.cluster_slots import key_slot
from redflare_broker.transport.server import Server

from tests.support.link.followed_tail import FollowedTail, follow_one_task
from tests.support.link.steps import LinkSteps
from tests.support.redis_server.kinds import KINDS

FQCNS = [f"site-{number}--trainer" for number in range(9)]


@pytest.fixture(scope="module", params=["unix", "redis70", "sentinel", "cluster"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with KINDS[request.param]() as running, Server.connect(running.url, running.options) as server:
        yield server


def test_every_link_is_seen_with_its_task_payload_and_dead_letters(server: Server) -> None:
    assert len({key_slot(f"{{{fqcn}}}") // 5461 for fqcn in FQCNS}) == 3  # all shards of a cluster of three
    links = [LinkSteps(server, fqcn) for fqcn in FQCNS]
    for number, link in enumerate(links):
        link.both()
        link.register()
        blob = link.store(link.keys.task_blob(f"b{number}"), *[100] * number) if number else None
        link.assign("t1", blob=blob)
        link.take("t1")
        link.bury(link.keys.results, f"letter {number}", "a", "b")

    inspector = Inspector(server)
    status = inspector.status()

    assert [link.fqcn for link in status.links] == FQCNS
    assert {link.task.status for link in status.links if link.task} == {"FETCHED"}
    assert [link.blob_bytes for link in status.links] == [100 * number for number in range(9)]
    assert [view.task.fqcn for view in inspector.task("t1")] == FQCNS
    assert [letter.reason for letter in inspector.all_dead_letters()] == [f"letter {number}" for number in range(9)]
    for fqcn in FQCNS:
        letters = inspector.dead_letters(fqcn)
        assert letters.replay(letters.all()[0].id).outcome == "REPLAYED"


@pytest.mark.parametrize("fqcn", ["a--tailed", "b--tailed", "c--tailed"])
def test_a_task_is_followed_live(server: Server, fqcn: str) -> None:
    with FollowedTail(Tail(server, fqcn)) as events:
        follow_one_task(LinkSteps(server, fqcn), events)
