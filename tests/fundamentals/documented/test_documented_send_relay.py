"""Sends and relays of ``WFCommSpec``, sentence by sentence; its clients ask and answer when the test says so."""

from __future__ import annotations

from typing import Any

import pytest
from redflare_workers import Shareable, Signal, TaskCompletionStatus
from redflare_workers.apis import SendOrder

from tests.fundamentals.documented.sentences import documented
from tests.support.calls import in_thread
from tests.support.communicator.bench import CommunicatorBench
from tests.support.waiting import SOON, wait_until

OK, ABORTED = TaskCompletionStatus.OK, TaskCompletionStatus.ABORTED
ANY, SEQUENTIAL = SendOrder.ANY, SendOrder.SEQUENTIAL


def asking(bench: CommunicatorBench, names: str) -> str:
    """Ask for each client once; return the names of those that got the task."""
    return "".join(name for name in names if bench.ask(name))


# -- send --------------------------------------------------------------------------------------------------------------


@documented("WFCommSpec.send")
def test_a_send_gives_the_task_to_a_single_client(bench: CommunicatorBench) -> None:
    task = bench.task()
    bench.comm.send(task, bench.ctx, ["a", "b", "c"], ANY)
    assert asking(bench, "bca") == "b"
    bench.do("b")
    bench.check()
    assert task.completion_status is OK


@documented("WFCommSpec.send")
def test_a_send_does_not_block(bench: CommunicatorBench) -> None:
    task = bench.task()
    bench.comm.send(task, bench.ctx, ["a"])
    assert (task.is_standing, task.completion_status) == (True, None)


@documented("WFCommSpec.send")
def test_in_any_order_the_first_target_that_asks_gets_it(bench: CommunicatorBench) -> None:
    bench.comm.send(bench.task(), bench.ctx, ["a", "b"], ANY)
    assert asking(bench, "cba") == "b"


@documented("WFCommSpec.send")
def test_in_sequential_order_the_first_target_gets_it(bench: CommunicatorBench) -> None:
    bench.comm.send(bench.task(), bench.ctx, ["a", "b"], SEQUENTIAL)
    assert asking(bench, "bca") == "a"


@documented("WFCommSpec.send")
def test_in_sequential_order_the_next_target_may_have_it_when_the_first_does_not_ask(bench: CommunicatorBench) -> None:
    bench.comm.send(bench.task(), bench.ctx, ["a", "b", "c"], SEQUENTIAL, task_assignment_timeout=10)
    bench.check(after=9)
    assert asking(bench, "bc") == ""
    bench.check(after=2)
    assert asking(bench, "cb") == "b"


@documented("WFCommSpec.send")
def test_the_order_is_sequential_when_nothing_is_said(bench: CommunicatorBench) -> None:
    bench.comm.send(bench.task(), bench.ctx, ["a", "b"])
    assert asking(bench, "ba") == "a"


@documented("WFCommSpec.send", differs="`task_assignment_timeout` of a sequential `send`")
def test_the_assignment_timeout_counts_from_the_making_of_the_task(bench: CommunicatorBench) -> None:
    task = bench.task()
    bench.check(after=100)
    bench.comm.send(task, bench.ctx, ["a", "b"], SEQUENTIAL, task_assignment_timeout=10)
    assert asking(bench, "b") == ""


@documented("WFCommSpec.send", differs="A target that is disconnected or never joins")
def test_without_an_assignment_timeout_the_first_target_is_waited_for_for_ever(bench: CommunicatorBench) -> None:
    bench.comm.initialize_run(bench.ctx)
    bench.comm.send(bench.task(), bench.ctx, ["ghost", "a"], SEQUENTIAL)
    assert asking(bench, "a") == ""
    bench.check(after=61)
    assert asking(bench, "a") == "a"


@documented("WFCommSpec.send")
def test_without_targets_whoever_asks_first_gets_it(bench: CommunicatorBench) -> None:
    bench.comm.send(bench.task(), bench.ctx, None, ANY)
    assert asking(bench, "ca") == "c"


@documented("WFCommSpec.send")
def test_without_targets_a_client_that_joins_while_the_task_stands_may_have_it(bench: CommunicatorBench) -> None:
    bench.comm.send(bench.task(), bench.ctx, None, ANY)
    assert bench.ask("newcomer")


@documented("WFCommSpec.send")
@pytest.mark.parametrize("targets", [None, []], ids=["none are given", "the list is empty"])
def test_sequential_order_needs_targets(bench: CommunicatorBench, targets: Any) -> None:
    with pytest.raises(ValueError, match="needs targets"):
        bench.comm.send(bench.task(), bench.ctx, targets, SEQUENTIAL)


@documented("WFCommSpec.send")
def test_an_assignment_timeout_is_no_longer_than_that_of_the_task(bench: CommunicatorBench) -> None:
    with pytest.raises(ValueError, match="longer than the timeout"):
        bench.comm.send(bench.task(timeout=5), bench.ctx, ["a"], task_assignment_timeout=6)


@documented("WFCommSpec.send")
def test_an_order_of_another_type_is_a_type_error(bench: CommunicatorBench) -> None:
    with pytest.raises(TypeError, match="send_order"):
        bench.comm.send(bench.task(), bench.ctx, ["a"], "any")  # type: ignore[arg-type]


@documented("WFCommSpec.send_and_wait")
def test_send_and_wait_waits_until_the_task_is_done_and_returns_status_and_result(live: CommunicatorBench) -> None:
    task, found = live.task(), list[Any]()
    waiting = in_thread(lambda: found.extend(live.comm.send_and_wait(task, live.ctx, ["a"])))
    wait_until(lambda: task.is_standing)
    task_id = live.ask("a")
    assert waiting.is_alive()
    live.answer("a", task_id, result=Shareable({"n": 3}))
    waiting.join(SOON)
    assert (found[0], found[1]["n"]) == (OK, 3)


@documented("WFCommSpec.send_and_wait")
def test_an_abort_signal_ends_the_wait_for_a_send(live: CommunicatorBench) -> None:
    task, signal, found = live.task(), Signal(), list[Any]()
    waiting = in_thread(lambda: found.extend(live.comm.send_and_wait(task, live.ctx, ["a"], abort_signal=signal)))
    wait_until(lambda: task.is_standing)
    signal.trigger("enough")
    waiting.join(SOON)
    assert found == [ABORTED, None]


@documented("WFCommSpec.send_and_wait")
def test_send_and_wait_takes_the_order_and_the_timeout_of_send(live: CommunicatorBench) -> None:
    task = live.task()
    waiting = in_thread(lambda: live.comm.send_and_wait(task, live.ctx, ["a", "b"], SEQUENTIAL, 10))
    wait_until(lambda: task.is_standing)
    assert live.ask("b") == ""
    live.clock.now += 11
    live.do("b")
    waiting.join(SOON)
    assert not waiting.is_alive()


# -- relay -------------------------------------------------------------------------------------------------------------


@documented("WFCommSpec.relay")
def test_a_relay_gives_the_task_to_one_client_after_the_other(bench: CommunicatorBench) -> None:
    task = bench.task()
    bench.comm.relay(task, bench.ctx, ["a", "b"], dynamic_targets=False)
    assert asking(bench, "ba") == "a"
    bench.do("a")
    assert asking(bench, "cb") == "b"
    bench.do("b")
    bench.check()
    assert task.completion_status is OK


@documented("WFCommSpec.relay")
def test_a_relay_does_not_block(bench: CommunicatorBench) -> None:
    task = bench.task()
    bench.comm.relay(task, bench.ctx, ["a"])
    assert (task.is_standing, task.completion_status) == (True, None)


@documented("WFCommSpec.relay")
def test_a_relay_without_targets_is_for_all_clients(bench: CommunicatorBench) -> None:
    bench.comm.relay(bench.task(), bench.ctx, None, ANY)
    assert "".join(name for name in "cab" if bench.do(name)) == "cab"


@documented("WFCommSpec.relay")
def test_a_client_has_a_relay_as_often_as_it_is_named(bench: CommunicatorBench) -> None:
    task = bench.task()
    bench.comm.relay(task, bench.ctx, ["a", "b", "a"], dynamic_targets=False)
    for name in ("a", "b", "a"):
        bench.do(name)
    bench.check()
    assert (task.completion_status, len(task.client_tasks)) == (OK, 3)


@documented("WFCommSpec.relay")
def test_a_sequential_relay_keeps_to_the_order_of_the_targets(bench: CommunicatorBench) -> None:
    bench.comm.relay(bench.task(), bench.ctx, ["c", "a"], SEQUENTIAL)
    assert asking(bench, "ac") == "c"


@documented("WFCommSpec.relay")
def test_a_relay_in_any_order_goes_to_a_target_that_has_not_had_it(bench: CommunicatorBench) -> None:
    bench.comm.relay(bench.task(), bench.ctx, ["a", "b"], ANY, dynamic_targets=False)
    bench.do("b")
    assert asking(bench, "bca") == "a"


@documented("WFCommSpec.relay")
def test_the_next_client_may_have_a_relay_after_the_assignment_timeout(bench: CommunicatorBench) -> None:
    bench.comm.relay(bench.task(), bench.ctx, ["a", "b"], SEQUENTIAL, task_assignment_timeout=10)
    bench.check(after=9)
    assert asking(bench, "b") == ""
    bench.check(after=2)
    assert asking(bench, "b") == "b"


@documented("WFCommSpec.relay")
def test_a_client_that_does_not_answer_within_the_result_timeout_is_given_up(bench: CommunicatorBench) -> None:
    bench.comm.relay(bench.task(), bench.ctx, ["a", "b"], SEQUENTIAL, task_result_timeout=10)
    assert asking(bench, "a") == "a"
    bench.check(after=9)
    assert asking(bench, "b") == ""
    bench.check(after=2)
    assert asking(bench, "b") == "b"


@documented("WFCommSpec.relay")
def test_without_a_result_timeout_no_client_is_given_up(bench: CommunicatorBench) -> None:
    bench.comm.relay(bench.task(), bench.ctx, ["a", "b"], SEQUENTIAL)
    assert asking(bench, "a") == "a"
    bench.check(after=1e6)
    assert asking(bench, "b") == ""


@documented("WFCommSpec.relay")
def test_a_client_that_joins_becomes_the_last_target_of_a_relay_with_dynamic_targets(bench: CommunicatorBench) -> None:
    task = bench.task()
    bench.comm.relay(task, bench.ctx, ["a"], SEQUENTIAL, dynamic_targets=True)
    assert asking(bench, "a") == "a"
    assert bench.ask("newcomer") == ""
    bench.do("a")
    assert bench.ask("newcomer")
    assert task.targets == ["a", "newcomer"]


@documented("WFCommSpec.relay")
def test_a_client_that_joins_has_no_part_in_a_relay_without_dynamic_targets(bench: CommunicatorBench) -> None:
    task = bench.task()
    bench.comm.relay(task, bench.ctx, ["a", "b"], SEQUENTIAL, dynamic_targets=False)
    bench.do("a")
    assert bench.ask("newcomer") == ""
    assert task.targets == ["a", "b"]


@documented("WFCommSpec.relay")
def test_a_relay_without_targets_needs_dynamic_targets(bench: CommunicatorBench) -> None:
    with pytest.raises(ValueError, match="targets must be given"):
        bench.comm.relay(bench.task(), bench.ctx, None, dynamic_targets=False)


@documented("WFCommSpec.relay")
def test_timeouts_of_a_relay_are_no_longer_than_that_of_the_task(bench: CommunicatorBench) -> None:
    wrong: list[dict[str, Any]] = [{"task_assignment_timeout": 6}, {"task_result_timeout": 6}]
    for timeouts in wrong:
        with pytest.raises(ValueError, match="longer than the timeout"):
            bench.comm.relay(bench.task(timeout=5), bench.ctx, ["a"], **timeouts)


@documented("WFCommSpec.relay")
@pytest.mark.parametrize("name", ["send_order", "dynamic_targets"])
def test_an_argument_of_a_relay_of_another_type_is_a_type_error(bench: CommunicatorBench, name: str) -> None:
    wrong: dict[str, Any] = {name: 1}
    with pytest.raises(TypeError, match=name):
        bench.comm.relay(bench.task(), bench.ctx, ["a"], **wrong)


@documented("WFCommSpec.relay", differs="A relay that no client has asked for")
def test_a_relay_needs_a_client_that_has_joined() -> None:
    with CommunicatorBench() as bench:
        task = bench.task()
        bench.comm.relay(task, bench.ctx)
        bench.check(after=100)
        assert task.is_standing
        assert bench.ask("newcomer")


@documented("WFCommSpec.relay_and_wait")
def test_relay_and_wait_waits_until_the_relay_is_done(live: CommunicatorBench) -> None:
    task = live.task()
    waiting = in_thread(lambda: live.comm.relay_and_wait(task, live.ctx, ["a", "b"], dynamic_targets=False))
    wait_until(lambda: task.is_standing)
    live.do("a")
    assert waiting.is_alive()
    live.do("b")
    waiting.join(SOON)
    assert (waiting.is_alive(), task.completion_status) == (False, OK)


@documented("WFCommSpec.relay_and_wait")
def test_an_abort_signal_ends_the_wait_for_a_relay(live: CommunicatorBench) -> None:
    task, signal = live.task(), Signal()
    waiting = in_thread(lambda: live.comm.relay_and_wait(task, live.ctx, ["a"], abort_signal=signal))
    wait_until(lambda: task.is_standing)
    signal.trigger("enough")
    waiting.join(SOON)
    assert (waiting.is_alive(), task.completion_status) == (False, ABORTED)


@documented("WFCommSpec.relay_and_wait", differs="What `..._and_wait` return")
def test_relay_and_wait_returns_nothing(live: CommunicatorBench) -> None:
    task, found = live.task(), list[Any]()
    waiting = in_thread(lambda: found.extend(live.comm.relay_and_wait(task, live.ctx, ["a"], dynamic_targets=False)))
    wait_until(lambda: task.is_standing)
    live.answer("a", live.ask("a"), result=Shareable({"n": 3}))
    waiting.join(SOON)
    assert (found[0], found[1]["n"]) == (OK, 3)
