"""Who waits behind whose pile: nobody."""

from __future__ import annotations

import pytest
from redflare_broker.util.fair_queue import FairQueue


def test_each_is_served_in_turn_and_its_own_items_in_order() -> None:
    queue: FairQueue[str] = FairQueue()
    for of in "aaaabbc":
        queue.append(f"{of}{len(queue)}", of)
    assert [queue.popleft() for _ in range(7)] == ["a0", "b4", "c6", "a1", "b5", "a2", "a3"]
    with pytest.raises(IndexError, match="empty"):
        queue.popleft()


def test_one_who_comes_late_waits_for_one_item_of_each_other() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(1000):
        queue.append(f"a{number}", "a")
    queue.append("b", "b")
    assert len(queue) == 1001
    assert [queue.popleft() for _ in range(2)] == ["a0", "b"]
    assert len(queue) == 999
