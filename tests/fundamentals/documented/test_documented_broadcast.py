"""Broadcasts of ``WFCommSpec``, sentence by sentence; its clients ask and answer when the test says so."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from redflare_workers import ClientTask, FLContext, Shareable, Signal, Task, TaskCompletionStatus

from tests.fundamentals.documented.sentences import documented
from tests.support.calls import in_thread
from tests.support.communicator.bench import CommunicatorBench
from tests.support.waiting import SOON, wait_until

OK, TIMEOUT = TaskCompletionStatus.OK, TaskCompletionStatus.TIMEOUT


def data_for(bench: CommunicatorBench, name: str) -> Shareable:
    """Return the data that a client gets when it asks."""
    data = bench.ask_fully(name)[2]
    assert data is not None
    return data


# -- broadcast ---------------------------------------------------------------------------------------------------------


@documented("WFCommSpec.broadcast")
def test_a_broadcast_sends_the_task_to_the_targets(bench: CommunicatorBench) -> None:
    bench.comm.broadcast(bench.task(), bench.ctx, ["a", "b"])
    assert [bool(bench.ask(name)) for name in ("a", "b", "c")] == [True, True, False]


@documented("WFCommSpec.broadcast")
def test_a_target_may_be_given_as_a_client(bench: CommunicatorBench) -> None:
    bench.comm.broadcast(bench.task(), bench.ctx, [bench.engine.join("b")])
    assert (bench.ask("a"), bool(bench.ask("b"))) == ("", True)


@documented("WFCommSpec.broadcast")
def test_a_broadcast_does_not_block(bench: CommunicatorBench) -> None:
    task = bench.task()
    bench.comm.broadcast(task, bench.ctx, ["a"])
    assert (task.is_standing, task.completion_status) == (True, None)


@documented("WFCommSpec.broadcast")
def test_a_broadcast_stands_no_longer_than_its_timeout(bench: CommunicatorBench) -> None:
    task = bench.task(timeout=5)
    bench.comm.broadcast(task, bench.ctx, ["a"])
    bench.check(after=4.9)
    assert task.is_standing
    bench.check(after=0.2)
    assert task.completion_status is TIMEOUT


@documented("WFCommSpec.broadcast")
def test_a_broadcast_without_timeout_stands_for_as_long_as_it_takes(bench: CommunicatorBench) -> None:
    task = bench.task()
    bench.comm.broadcast(task, bench.ctx, ["a"])
    bench.ask("a")
    bench.check(after=1e6)
    assert task.is_standing


@documented("WFCommSpec.broadcast")
def test_a_broadcast_is_done_when_all_targets_are(bench: CommunicatorBench) -> None:
    task = bench.task()
    bench.comm.broadcast(task, bench.ctx, ["a", "b"], min_responses=1, wait_time_after_min_received=100)
    bench.do("a")
    bench.check()
    assert task.is_standing
    bench.do("b")
    bench.check()
    assert task.completion_status is OK


@documented("WFCommSpec.broadcast")
def test_a_broadcast_is_done_when_it_has_waited_after_enough_responses(bench: CommunicatorBench) -> None:
    task = bench.task()
    bench.comm.broadcast(task, bench.ctx, ["a", "b"], min_responses=1, wait_time_after_min_received=10)
    bench.do("a")
    bench.check(after=9.9)
    assert task.is_standing
    bench.check(after=0.2)
    assert task.completion_status is OK


@documented("WFCommSpec.broadcast")
def test_a_response_that_comes_while_it_waits_is_collected(bench: CommunicatorBench) -> None:
    task = bench.task()
    bench.comm.broadcast(task, bench.ctx, ["a", "b", "c"], min_responses=1, wait_time_after_min_received=10)
    bench.do("a")
    bench.check(after=5)
    bench.do("b")
    bench.check(after=6)
    assert [each.client.name for each in task.client_tasks if each.result is not None] == ["a", "b"]
    assert task.completion_status is OK


@documented("WFCommSpec.broadcast")
def test_without_a_time_to_wait_it_is_done_at_once_when_there_are_enough(bench: CommunicatorBench) -> None:
    task = bench.task()
    bench.comm.broadcast(task, bench.ctx, ["a", "b", "c"], min_responses=2)
    bench.do("a")
    bench.check()
    assert task.is_standing
    bench.do("b")
    bench.check()
    assert task.completion_status is OK


@documented("WFCommSpec.broadcast")
def test_min_responses_0_means_all_to_whom_the_task_was_sent(bench: CommunicatorBench) -> None:
    task = bench.task()
    bench.comm.broadcast(task, bench.ctx, ["a", "b"], min_responses=0)
    for name in ("a", "b"):
        assert task.is_standing
        bench.do(name)
        bench.check()
    assert task.completion_status is OK


@documented("WFCommSpec.broadcast", differs="`min_responses`, when it is not given")
def test_one_response_is_enough_when_nothing_is_said(bench: CommunicatorBench) -> None:
    task = bench.task()
    bench.comm.broadcast(task, bench.ctx, ["a", "b"])
    bench.do("a")
    bench.check()
    assert task.is_standing


@documented("WFCommSpec.broadcast")
def test_more_responses_than_targets_are_a_value_error(bench: CommunicatorBench) -> None:
    with pytest.raises(ValueError, match="min_responses is 2"):
        bench.comm.broadcast(bench.task(), bench.ctx, ["a"], min_responses=2)


@documented("WFCommSpec.broadcast")
def test_a_negative_number_is_a_value_error(bench: CommunicatorBench) -> None:
    for numbers in ((-1, 0), (0, -1)):
        with pytest.raises(ValueError, match="must be >= 0"):
            bench.comm.broadcast(bench.task(), bench.ctx, ["a"], *numbers)


@documented("WFCommSpec.broadcast")
@pytest.mark.parametrize("targets", ["a", [1]], ids=["a text", "a list of numbers"])
def test_targets_of_another_type_are_a_type_error(bench: CommunicatorBench, targets: Any) -> None:
    with pytest.raises(TypeError, match="targets must be"):
        bench.comm.broadcast(bench.task(), bench.ctx, targets)


@documented("WFCommSpec.broadcast")
def test_before_task_sent_is_called_before_a_client_gets_the_task(bench: CommunicatorBench) -> None:
    seen: list[tuple[str, int]] = []

    def before(client_task: ClientTask, fl_ctx: FLContext) -> None:
        seen.append((client_task.client.name, client_task.task_send_count))

    bench.comm.broadcast(bench.task(before_task_sent_cb=before), bench.ctx, ["a", "b"])
    bench.ask("a")
    bench.ask("b")
    assert seen == [("a", 0), ("b", 0)]


@documented("WFCommSpec.broadcast")
def test_after_task_sent_is_called_whatever_before_task_sent_does(bench: CommunicatorBench) -> None:
    seen: list[str] = []

    def fail(client_task: ClientTask, fl_ctx: FLContext) -> None:
        raise RuntimeError("out of order")

    def after(client_task: ClientTask, fl_ctx: FLContext) -> None:
        seen.append(client_task.client.name)

    task = bench.task(before_task_sent_cb=fail, after_task_sent_cb=after)
    bench.comm.broadcast(task, bench.ctx, ["a"])
    assert bench.ask("a") == ""
    assert (seen, task.completion_status) == (["a"], TaskCompletionStatus.ERROR)


@documented("WFCommSpec.broadcast")
def test_result_received_is_called_for_the_result_of_each_client(bench: CommunicatorBench) -> None:
    seen: list[tuple[str, int]] = []

    def received(client_task: ClientTask, fl_ctx: FLContext) -> None:
        assert client_task.result is not None
        seen.append((client_task.client.name, client_task.result["n"]))

    bench.comm.broadcast(bench.task(result_received_cb=received), bench.ctx, ["a", "b"])
    for number, name in enumerate(("b", "a")):
        bench.answer(name, bench.ask(name), result=Shareable({"n": number}))
    assert seen == [("b", 0), ("a", 1)]


@documented("WFCommSpec.broadcast")
def test_task_done_is_called_when_the_task_is_done(bench: CommunicatorBench) -> None:
    done: list[tuple[Task, object]] = []
    task = bench.task(task_done_cb=lambda task, fl_ctx: done.append((task, task.completion_status)))
    bench.comm.broadcast(task, bench.ctx, ["a"])
    bench.ask("a")
    bench.check()
    assert done == []
    bench.do("a")
    bench.check()
    bench.settle(task)
    assert done == [(task, OK)]


@documented("WFCommSpec.broadcast")
def test_the_result_of_a_client_is_what_result_received_has_made_of_it(bench: CommunicatorBench) -> None:
    def received(client_task: ClientTask, fl_ctx: FLContext) -> None:
        client_task.result = Shareable({"mine": True})

    task = bench.task(result_received_cb=received)
    bench.comm.broadcast(task, bench.ctx, ["a"])
    bench.do("a")
    assert task.client_tasks[0].result is not None
    assert task.client_tasks[0].result["mine"]


@documented("WFCommSpec.broadcast")
def test_without_result_received_the_result_is_as_the_client_submitted_it(bench: CommunicatorBench) -> None:
    task, result = bench.task(), Shareable({"n": 1})
    bench.comm.broadcast(task, bench.ctx, ["a"])
    bench.answer("a", bench.ask("a"), result=result)
    assert task.client_tasks[0].result is result


@documented("WFCommSpec.broadcast")
def test_without_targets_all_clients_get_the_task(bench: CommunicatorBench) -> None:
    bench.comm.broadcast(bench.task(), bench.ctx)
    assert all(bench.ask(name) for name in ("a", "b", "c"))


@documented("WFCommSpec.broadcast")
def test_without_targets_a_client_that_joins_while_the_task_stands_gets_it(bench: CommunicatorBench) -> None:
    task = bench.task()
    bench.comm.broadcast(task, bench.ctx)
    assert bench.ask("newcomer")
    assert "newcomer" in (task.targets or ())


@documented("WFCommSpec.broadcast", differs="`targets=None`")
def test_without_targets_those_are_fixed_who_have_joined_when_it_is_scheduled(bench: CommunicatorBench) -> None:
    task = bench.task()
    bench.comm.broadcast(task, bench.ctx)
    for name in ("a", "b", "c", "newcomer"):
        bench.do(name)
    bench.check()
    assert len(task.client_tasks) == 4


@documented("WFCommSpec.broadcast", differs="A target that is disconnected or never joins")
def test_a_target_is_waited_for_however_long_it_is_away(bench: CommunicatorBench) -> None:
    task = bench.task()
    bench.comm.initialize_run(bench.ctx)
    bench.comm.broadcast(task, bench.ctx, ["a", "ghost"])
    bench.do("a")
    bench.check(after=59)
    assert task.is_standing
    bench.check(after=2)
    assert task.completion_status is OK


@documented("WFCommSpec.broadcast")
def test_a_change_of_the_data_after_the_first_client_has_it_reaches_no_client(bench: CommunicatorBench) -> None:
    task = bench.task(data={"w": np.zeros(2)})
    bench.comm.broadcast(task, bench.ctx, ["a", "b"])
    first = data_for(bench, "a")
    task.data["w"] += 5
    assert [each["w"].tolist() for each in (first, data_for(bench, "b"))] == [[0, 0], [0, 0]]


@documented("WFCommSpec.broadcast")
def test_what_before_task_sent_changes_is_sent(bench: CommunicatorBench) -> None:
    def before(client_task: ClientTask, fl_ctx: FLContext) -> None:
        client_task.task.data["round"] = 7

    bench.comm.broadcast(bench.task(before_task_sent_cb=before), bench.ctx, ["a", "b"])
    assert [data_for(bench, name)["round"] for name in ("a", "b")] == [7, 7]


@documented("WFCommSpec.broadcast", differs="Arrays of a broadcast in `before_task_sent_cb`")
def test_data_of_one_client_s_own_is_not_provided_for(bench: CommunicatorBench) -> None:
    def before(client_task: ClientTask, fl_ctx: FLContext) -> None:
        with pytest.raises(ValueError, match="read-only"):
            client_task.task.data["w"][0] = 1
        client_task.task.data["w"] = np.full(1, ord(client_task.client.name))

    task = bench.task(data={"w": np.zeros(1)}, before_task_sent_cb=before)
    bench.comm.broadcast(task, bench.ctx, ["a", "b"])
    assert [data_for(bench, name)["w"][0] for name in ("a", "b")] == [ord("a"), ord("b")]


@documented("WFCommSpec.broadcast")
def test_data_that_cannot_be_copied_ends_the_task_with_error(bench: CommunicatorBench) -> None:
    task = bench.task(data={"lock": threading.Lock()})
    bench.comm.broadcast(task, bench.ctx, ["a"])
    assert bench.ask("a") == ""
    assert task.completion_status is TaskCompletionStatus.ERROR
    assert isinstance(task.exception, Exception)


@documented("WFCommSpec.broadcast")
def test_a_task_is_scheduled_once(bench: CommunicatorBench) -> None:
    task = bench.task()
    bench.comm.broadcast(task, bench.ctx, ["a"])
    with pytest.raises(ValueError, match="used already"):
        bench.comm.broadcast(task, bench.ctx, ["a"])


# -- broadcast_and_wait ------------------------------------------------------------------------------------------------


@documented("WFCommSpec.broadcast_and_wait")
def test_broadcast_and_wait_schedules_the_task_and_waits_until_it_is_done(live: CommunicatorBench) -> None:
    task = live.task()
    waiting = in_thread(lambda: live.comm.broadcast_and_wait(task, live.ctx, ["a", "b"]))
    wait_until(lambda: task.is_standing)
    live.do("a")
    assert waiting.is_alive()
    live.do("b")
    waiting.join(SOON)
    assert (waiting.is_alive(), task.completion_status) == (False, OK)


@documented("WFCommSpec.broadcast_and_wait")
def test_an_abort_signal_ends_the_wait(live: CommunicatorBench) -> None:
    task, signal = live.task(), Signal()
    waiting = in_thread(lambda: live.comm.broadcast_and_wait(task, live.ctx, ["a"], abort_signal=signal))
    wait_until(lambda: task.is_standing)
    signal.trigger("enough")
    waiting.join(SOON)
    assert (waiting.is_alive(), task.completion_status) == (False, TaskCompletionStatus.ABORTED)


@documented("WFCommSpec.broadcast_and_wait")
def test_broadcast_and_wait_takes_the_numbers_of_broadcast(live: CommunicatorBench) -> None:
    task = live.task()
    waiting = in_thread(lambda: live.comm.broadcast_and_wait(task, live.ctx, None, 1, 0))
    wait_until(lambda: task.is_standing)
    live.do("b")
    waiting.join(SOON)
    assert (waiting.is_alive(), task.completion_status) == (False, OK)


@documented("WFCommSpec.broadcast_and_wait", differs="What `..._and_wait` return")
def test_broadcast_and_wait_returns_nothing(live: CommunicatorBench) -> None:
    task, found = live.task(), list[Any]()
    waiting = in_thread(lambda: found.extend(live.comm.broadcast_and_wait(task, live.ctx, ["a"])))
    wait_until(lambda: task.is_standing)
    live.do("a")
    waiting.join(SOON)
    assert found == [OK, {"a": task.client_tasks[0].result}]


@documented("WFCommSpec.broadcast_and_wait", differs="`..._and_wait`")
def test_the_wait_may_be_over_before_task_done_has_run(live: CommunicatorBench) -> None:
    events: list[str] = []
    task = live.task(task_done_cb=lambda task, fl_ctx: events.append("done"))

    def wait() -> None:
        live.comm.broadcast_and_wait(task, live.ctx, ["a"])
        events.append("returned")

    waiting = in_thread(wait)
    wait_until(lambda: task.is_standing)
    live.do("a")
    waiting.join(SOON)
    assert events == ["done", "returned"]


# -- broadcast_forever -------------------------------------------------------------------------------------------------


@documented("WFCommSpec.broadcast_forever")
def test_every_client_gets_the_task_each_time_it_asks(bench: CommunicatorBench) -> None:
    bench.comm.broadcast_forever(bench.task(), bench.ctx)
    ids = [bench.do(name) for name in ("a", "b", "a", "a", "c")]
    assert len(set(ids)) == 5


@documented("WFCommSpec.broadcast_forever")
def test_a_broadcast_forever_ends_with_its_timeout(bench: CommunicatorBench) -> None:
    task = bench.task(timeout=5)
    bench.comm.broadcast_forever(task, bench.ctx, ["a"])
    bench.do("a")
    bench.check(after=4)
    assert task.is_standing
    bench.check(after=2)
    assert task.completion_status is TIMEOUT


@documented("WFCommSpec.broadcast_forever")
def test_a_broadcast_forever_ends_when_it_is_cancelled(bench: CommunicatorBench) -> None:
    task = bench.task()
    bench.comm.broadcast_forever(task, bench.ctx, ["a"])
    bench.comm.cancel_task(task)
    assert task.completion_status is TaskCompletionStatus.CANCELLED
    assert bench.ask("a") == ""


@documented("WFCommSpec.broadcast_forever")
def test_a_broadcast_forever_does_not_block_and_does_not_end_by_itself(bench: CommunicatorBench) -> None:
    task = bench.task()
    bench.comm.broadcast_forever(task, bench.ctx)
    for name in ("a", "b", "c"):
        bench.do(name)
    bench.check(after=1e6)
    assert task.is_standing


@documented("WFCommSpec.broadcast_forever")
def test_only_the_targets_of_a_broadcast_forever_get_it(bench: CommunicatorBench) -> None:
    bench.comm.broadcast_forever(bench.task(), bench.ctx, ["b"])
    assert (bench.ask("a"), bool(bench.ask("b"))) == ("", True)


@documented("WFCommSpec.broadcast_forever")
def test_before_task_sent_may_change_what_each_client_gets(bench: CommunicatorBench) -> None:
    count = iter(range(9))

    def before(client_task: ClientTask, fl_ctx: FLContext) -> None:
        client_task.task.data["n"] = next(count)

    bench.comm.broadcast_forever(bench.task(before_task_sent_cb=before), bench.ctx)
    seen = []
    for name in ("a", "b", "a"):
        _, task_id, data = bench.ask_fully(name)
        assert data is not None
        seen.append(data["n"])
        bench.answer(name, task_id)
    assert seen == [0, 1, 2]
