"""``FairQueue``: a queue that serves those who put into it in turn, so that nobody waits behind another's pile."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """Items by whose they are: those of one come in order, and one of each comes before the next of anybody.

    Not thread-safe.
    """

    def __init__(self) -> None:
        #: whose turn it is first
        self._items: dict[str, deque[T]] = {}
        self._count = 0

    def append(self, item: T, of: str = "") -> None:
        """Put an item behind those of the same."""
        self._items.setdefault(of, deque()).append(item)
        self._count += 1

    def popleft(self) -> T:
        """Take the next item out.

        Raises:
            IndexError: there is none.
        """
        if not self._items:
            raise IndexError("pop from an empty queue")
        of = next(iter(self._items))
        items = self._items.pop(of)
        item = items.popleft()
        self._count -= 1
        if items:
            self._items[of] = items
        return item

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"<FairQueue of {self._count} items of {len(self._items)}>"
