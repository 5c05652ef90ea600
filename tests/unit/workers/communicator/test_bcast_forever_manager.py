"""An endless broadcast is sent to each target whenever it asks."""

from __future__ import annotations

import pytest
from redflare_workers.communicator.managers.simple import BcastForeverTaskManager
from redflare_workers.communicator.managers.task_manager import TaskCheckStatus

from tests.support.communicator.manager_states import Sent, asking, standing_task


@pytest.mark.parametrize(
    ("targets", "sent", "status"),
    [
        pytest.param(["a"], [], "SEND", id="a target gets it"),
        pytest.param(["a"], [Sent("a", 1, 2)], "SEND", id="a target gets it again when it has answered"),
        pytest.param(["a"], [Sent("a", 1, 2), Sent("a", 3, 4)], "SEND", id="and again"),
        pytest.param(None, [], "SEND", id="without targets everybody gets it"),
        pytest.param(["b"], [], "NO_BLOCK", id="a client that is no target gets the task behind it"),
        pytest.param([], [], "NO_BLOCK", id="with an empty list of targets no client gets it"),
    ],
)
def test_who_gets_it(targets: list[str] | None, sent: list[Sent], status: str) -> None:
    task = standing_task(targets, *sent)
    assert BcastForeverTaskManager().check_task_send(asking(task, "a"), 5) is TaskCheckStatus[status]


@pytest.mark.parametrize(
    ("targets", "sent"),
    [
        pytest.param(["a"], [], id="nothing was sent"),
        pytest.param(["a"], [Sent("a", 1)], id="a target has it"),
        pytest.param(["a"], [Sent("a", 1, 2)], id="all targets have answered"),
        pytest.param(None, [Sent("a", 1, 2)], id="all that got it have answered"),
    ],
)
def test_it_is_never_done(targets: list[str] | None, sent: list[Sent]) -> None:
    task = standing_task(targets, *sent)
    manager = BcastForeverTaskManager()
    assert manager.check_task_exit(task, 1e9) == (False, None)
    assert manager.next_change(task, 3) is None
