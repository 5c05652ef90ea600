"""``SenderInboxes``: the inboxes of a cell, one for each sender, how far each is read, and which are read next.

Of a sender who has enough requests in hand nothing but replies is taken until there is room, so that a pile of one
holds up nobody else, and no reply waits behind requests.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

from redflare_broker.errors import ConfigError
from redflare_broker.fqcn import FQCN
from redflare_broker.keys import CellKeys
from redflare_broker.wire.message_entry import is_reply

logger = logging.getLogger(__name__)

#: An entry's id, to be compared.
_Place: TypeAlias = tuple[int, int]

#: Senders that are read.
MOST_SENDERS: Final = 10_000
#: Share of its room that a sender must have free before it is read again: a few entries are not worth a read.
_FREE: Final = 0.5
#: Entries of one sender in one read.
_MOST_OF_ONE: Final = 256


class SenderInboxes:
    """Used by the thread that reads; others may look at ``keys``.

    Args:
        keys: of the cell.
        load: returns how much of the room for a sender's requests is taken; 1 and more: all of it.
        known: senders that are read from the start.
    """

    def __init__(self, keys: CellKeys, load: Callable[[str], float], known: Iterable[str] = ()) -> None:
        self._cell = keys
        self._load = load
        #: The keys of the inboxes.
        self.keys: tuple[str, ...] = ()
        #: by key
        self._owners: dict[str, str] = {}
        self._after: dict[str, str] = {}
        #: keys of those of whom only replies are taken
        self._full_up: set[str] = set()
        #: by key: how far its replies were taken, where that is further than its requests
        self._ahead: dict[str, _Place] = {}
        self._full = False
        self.add(known)

    def add(self, owners: Iterable[str]) -> None:
        """Read these senders too, from now on and from the beginning; at most ``MOST_SENDERS``."""
        for owner in owners:
            try:
                key = self._cell.inbox(FQCN.check_segment(owner, "sender"))
            except ConfigError as error:
                logger.debug("%s: nobody of that name can write: %s", self._cell.senders, error)
                continue
            if key in self._owners:
                continue
            if len(self._owners) >= MOST_SENDERS:
                self._warn(owner)
                return
            self._owners[key] = owner
            self._after[key] = "0"
        self.keys = tuple(self._owners)

    def knows(self, owner: str) -> bool:
        """Whether the inbox of a sender is read; from any thread."""
        return self._cell.inbox(owner) in self._owners

    def owner_of(self, key: str) -> str:
        """Return who has written all that is in an inbox."""
        return self._owners[key]

    def begin_anew(self) -> None:
        """Read all of them from the beginning."""
        self._after = dict.fromkeys(self._owners, "0")
        self._full_up.clear()
        self._ahead.clear()

    def next_read(self, entries: int) -> tuple[int, list[str]]:
        """Choose what to read next.

        Args:
            entries: how many to read, of all senders together.

        Returns:
            how many of each sender, and the names of the streams, followed by the ids behind which to read.
        """
        if self._full_up:
            self._full_up = {key for key in self._full_up if self._load(self._owners[key]) > _FREE}
        after = self._after
        if self._full_up:
            after = after | {key: "{}-{}".format(*self._ahead[key]) for key in self._full_up}
        return min(_MOST_OF_ONE, max(1, entries // max(1, len(after)))), [*after, *after.values()]

    def takes(self, key: str, entry_id: str, fields: list[bytes]) -> bool:
        """Whether to handle the next entry of an inbox now; note that it was read."""
        if key not in self._full_up:
            if self._load(self._owners[key]) < 1:
                self._after[key] = entry_id
                return True
            self._full_up.add(key)
            self._ahead[key] = max(self._ahead.get(key, (0, 0)), _place(self._after[key]))
        if (place := _place(entry_id)) <= self._ahead[key]:
            return False
        self._ahead[key] = place
        return is_reply(fields)

    @property
    def some_wait(self) -> bool:
        """Whether requests of somebody are left where they are, because enough of them are in hand."""
        return bool(self._full_up)

    def _warn(self, owner: str) -> None:
        if not self._full:
            self._full = True
            text = "%s: %d senders are read, which is the most; %s and all further ones are not: is %s right?"
            logger.error(text, self._cell.fqcn, MOST_SENDERS, owner, self._cell.senders)

    def __len__(self) -> int:
        return len(self._owners)

    def __repr__(self) -> str:
        return f"<SenderInboxes of {len(self)} senders, {len(self._full_up)} with enough in hand>"


def _place(entry_id: str) -> _Place:
    """Make an entry's id comparable."""
    ms, _, number = entry_id.partition("-")
    return int(ms), int(number or 0)
