"""The steps of links and cells that set TTLs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Final

from redflare_broker.keys import Keys
from redflare_broker.scripts.lease import Lease
from redflare_broker.scripts.link_scripts import KEEP_AGENTS, REGISTER, REPLAY
from redflare_broker.scripts.script import common_values

from tests.support.cell.bench import CellBench
from tests.support.link.bench import LinkBench
from tests.support.ttls import row
from tests.support.ttls.row import POLICY, Row

ROWS: Final[list[Row]] = []
sets = partial(row.sets, ROWS)

# -- a link ------------------------------------------------------------------------------------------------------------


@sets("link/hello", link="retention", tasks="retention", results="retention")
def a_successor_says_hello(link: LinkBench) -> Iterator[None]:
    link.assign("t1")
    yield
    link.start(Lease(name="agent", instance="a2"))


@sets("link/bye", link="retention", tasks="retention", results="retention")
def the_first_side_says_bye(link: LinkBench) -> Iterator[None]:
    link.submitted("t1")
    yield
    link.bye(link.agent)


@sets("link/bye", link="settled", tasks="settled", results="settled")
def the_second_side_says_bye(link: LinkBench) -> Iterator[None]:
    link.submitted("t1")
    link.settle("t1")
    link.bye(link.agent)
    yield
    link.bye(link.cj)


@sets("link/bye", link="retention", tasks="retention", results="retention")
def both_sides_say_bye_and_leave_an_open_task(link: LinkBench) -> Iterator[None]:
    link.submitted("t1")
    link.bye(link.agent)
    yield
    link.bye(link.cj)


@sets("link/beat", link="retention", tasks="retention", results="retention", task="retention", heartbeat="beat_ttl")
def the_agent_beats(link: LinkBench) -> Iterator[None]:
    link.submitted("t1")
    yield
    link.beat(link.agent, "t1")


@sets("link/beat", link="retention", tasks="retention", results="retention", task="retention", heartbeat="beat_ttl")
def the_cj_beats(link: LinkBench) -> Iterator[None]:
    link.assign("t1")
    yield
    link.beat(link.cj, "t1")


@sets("link/beat", link="retention", tasks="retention", results="retention", heartbeat="beat_ttl")
def a_side_beats_whose_task_is_settled(link: LinkBench) -> Iterator[None]:
    link.submitted("t1")
    link.settle("t1")
    yield
    link.beat(link.cj, "t1")


@sets("link/beat")
def a_side_beats_that_has_said_bye(link: LinkBench) -> Iterator[None]:
    link.submitted("t1")
    link.bye(link.agent)
    yield
    link.beat(link.agent, "t1")


@sets("link/assign", tasks="retention", results="retention", task="retention")
def the_first_task_is_assigned(link: LinkBench) -> Iterator[None]:
    yield
    link.assign("t1")


@sets("link/assign", task="retention", expected_task="settled")
def a_task_replaces_another(link: LinkBench) -> Iterator[None]:
    link.submitted("t0")
    yield
    link.assign("t1", expected="t0")


@sets("link/assign", task="retention")
def a_task_is_assigned_again_whose_result_is_lost(link: LinkBench) -> Iterator[None]:
    link.submitted("t1")
    link.settle("t1")
    yield
    link.assign("t1", lost=link.field("t1", "result"))


@sets("link/refuse", task="settled", dead="retention")
def a_task_is_refused(link: LinkBench) -> Iterator[None]:
    link.assign("t1")
    link.take("t1")
    yield
    link.refuse("t1", "BAD_REQUEST_DATA")


@sets("link/refuse")
def a_task_without_payload_is_refused(link: LinkBench) -> Iterator[None]:
    link.assign("t1")
    link.take("t1")
    yield
    link.refuse("t1", "BLOB_MISSING")


@sets("link/settle", task="settled")
def a_result_is_accepted(link: LinkBench) -> Iterator[None]:
    link.submitted("t1")
    yield
    link.settle("t1")


@sets("link/settle", task="settled", dead="retention")
def a_result_is_rejected(link: LinkBench) -> Iterator[None]:
    link.submitted("t1")
    yield
    link.settle("t1", "REJECTED")


@sets("link/abort", task="settled")
def a_task_is_aborted(link: LinkBench) -> Iterator[None]:
    link.submitted("t1")
    yield
    link.abort("t1", link.cj)


@sets("link/abort", task="settled")
def a_task_is_aborted_before_it_is_assigned(link: LinkBench) -> Iterator[None]:
    yield
    link.abort("t1", link.cj)


@sets("link/bury", dead="retention")
def an_entry_of_a_link_is_buried(link: LinkBench) -> Iterator[None]:
    entry = link.connection.call("XADD", link.keys.tasks, "*", "x", "1")
    assert isinstance(entry, bytes)
    yield
    assert link.bury(link.agent, link.keys.tasks, entry.decode()).status == "BURIED"


@sets("link/replay", stream="retention")
def a_dead_letter_is_replayed(link: LinkBench) -> Iterator[None]:
    entry = link.connection.call("XADD", link.keys.tasks, "*", "x", "1")
    assert isinstance(entry, bytes)
    link.bury(link.agent, link.keys.tasks, entry.decode())
    [(letter, _)] = link.entries(link.keys.dead)
    yield
    assert REPLAY.run(link.connection, common_values(link.keys, POLICY), letter=letter).status == "REPLAYED"


@sets("link/register", agents="retention")
def an_agent_is_registered(link: LinkBench) -> Iterator[None]:
    values = {**common_values(link.keys, POLICY), "agents": Keys().agents, "fqcn": link.keys.fqcn}
    REGISTER.run(link.connection, values)
    yield
    REGISTER.run(link.connection, values)


@sets("link/keep_agents", agents="retention")
def the_list_of_agents_is_kept(link: LinkBench) -> Iterator[None]:
    values = {**common_values(link.keys, POLICY), "agents": Keys().agents, "fqcn": link.keys.fqcn}
    REGISTER.run(link.connection, values)
    yield
    KEEP_AGENTS.run(link.connection, values)


# -- a cell ------------------------------------------------------------------------------------------------------------


@sets("cell/hello", cell="retention", senders="retention")
def a_successor_takes_a_cell_over(cell: CellBench) -> Iterator[None]:
    cell.post()
    yield
    assert cell.start("y:1:1").epoch > cell.lease.epoch


@sets("cell/bye", cell="settled", senders="settled", inbox="settled")
def a_cell_says_bye(cell: CellBench) -> Iterator[None]:
    cell.post()
    yield
    cell.bye(cell.lease)


@sets("cell/beat", cell="retention", senders="retention", inbox="retention", heartbeat="beat_ttl")
def a_cell_beats(cell: CellBench) -> Iterator[None]:
    cell.post()
    yield
    cell.beat(cell.lease)


@sets("cell/beat")
def a_cell_beats_that_has_said_bye(cell: CellBench) -> Iterator[None]:
    cell.post()
    cell.bye(cell.lease)
    yield
    cell.beat(cell.lease)


@sets("cell/bury", dead="retention")
def an_entry_of_a_cell_is_buried(cell: CellBench) -> Iterator[None]:
    entry = cell.post()
    yield
    assert cell.bury(cell.lease, entry).status == "BURIED"


@sets("cell/post", inbox="retention", senders="retention")
def a_message_is_posted(cell: CellBench) -> Iterator[None]:
    yield
    cell.post()


@sets("cell/still_posted", senders="retention")
def a_sender_checks_a_message(cell: CellBench) -> Iterator[None]:
    entry = cell.post()
    yield
    assert cell.still_posted(entry) == [1]


@sets("cell/reply", inbox="retention", senders="retention")
def a_living_cell_is_answered(cell: CellBench) -> Iterator[None]:
    cell.beat(cell.lease)
    yield
    cell.reply()


@sets("cell/reply", inbox="settled", senders="settled")
def a_cell_without_a_heartbeat_is_answered(cell: CellBench) -> Iterator[None]:
    yield
    cell.reply()


@sets("cell/reply", inbox="beat_ttl", senders="beat_ttl")
def a_stranger_is_answered(cell: CellBench) -> Iterator[None]:
    cell.connection.call("DEL", cell.keys.cell)
    yield
    cell.reply()
