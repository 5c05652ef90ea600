"""``Backlog``: the senders whose requests wait in the inbox's stream, because enough of theirs are in hand.

Reading goes on behind them, so that a pile of one sender holds up nobody else: on the way to the end of the stream some
requests of each sender are taken, and no more than there is room for. What was passed over is read a second time, in
order: of each sender the backlog knows the place from which.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from redflare_broker.wire.message_entry import peek

#: Share of its room that a sender must have free before its backlog is read: a few entries are not worth a read.
_FREE: Final = 0.5

#: Requests of one sender that are taken on the way to the end of the stream.
_QUOTA: Final = 256

#: An entry's id, to be compared.
_Place = tuple[int, int]


class Backlog:
    """Used by the thread that reads the inbox.

    Args:
        load: returns how much of a sender's room is taken: 0: nothing, 1 and more: all.
    """

    def __init__(self, load: Callable[[str], float]) -> None:
        self._load = load
        #: by sender: the place behind which its first entry is that waits
        self._behind: dict[str, _Place] = {}
        #: by sender: how many were taken since the end of the stream was reached
        self._taken: dict[str, int] = {}

    def at_end(self) -> None:
        """Note that the stream was read to its end."""
        self._taken.clear()

    def clear(self) -> None:
        """Forget all of it, because the inbox is read from its beginning."""
        self._behind.clear()
        self._taken.clear()

    def passes_over(self, after: str, fields: list[bytes]) -> bool:
        """Whether to leave an entry, which was read behind ``after``, for later. Replies are never left."""
        is_reply, sender = peek(fields)
        if is_reply:
            return False
        if sender in self._behind:
            return True
        taken = self._taken[sender] = self._taken.get(sender, 0) + 1
        if taken <= _QUOTA and self._load(sender) < 1:
            return False
        self._behind[sender] = _place(after)
        return True

    def start(self) -> str:
        """Return the id behind which to read a second time; "": there is room for nobody."""
        places = [place for sender, place in self._behind.items() if self._load(sender) <= _FREE]
        return "{}-{}".format(*min(places)) if places else ""

    def admit(
        self, start: str, entries: Iterable[tuple[str, list[bytes]]], *, all_read: bool
    ) -> Iterable[tuple[str, list[bytes]]]:
        """Choose, of entries that were read behind ``start``, those whose time has come.

        Args:
            all_read: these are all up to where the inbox has been read.
        """
        last = first = _place(start)
        # who is further back has no room, and its entries come in order
        here = {sender for sender, place in self._behind.items() if place >= first}
        for entry_id, fields in entries:
            place = _place(entry_id)
            is_reply, sender = peek(fields)
            if not is_reply and sender in here and self._behind[sender] < place:
                if self._load(sender) < 1:
                    yield entry_id, fields
                else:
                    self._behind[sender] = last
                    here.discard(sender)
            last = place
        for sender in here:
            if all_read:
                del self._behind[sender]
            else:
                self._behind[sender] = max(self._behind[sender], last)

    def __len__(self) -> int:
        """Return how many senders wait."""
        return len(self._behind)

    def __repr__(self) -> str:
        return f"<Backlog of {len(self._behind)} senders>"


def _place(entry_id: str) -> _Place:
    ms, _, number = entry_id.partition("-")
    return int(ms), int(number or 0)
