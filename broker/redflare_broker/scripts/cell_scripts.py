"""Every step of a cell: the scripts ``lua/cell/*.lua``; ``common_values`` and a lease have most of their values.

Those that a sender takes at another cell have theirs from ``sender_values``.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from redflare_broker.keys import CellKeys
from redflare_broker.transport.replies import Arg

from .script import Script

#: Ids that Lua passes to one command.
_IDS_AT_ONCE: Final = 1000
_SENDER: Final = "owner senders doorbell publish may_keep retention_ms"

#: Take the cell over; with an epoch, take it up again after Redis lost it.
HELLO: Final = Script("cell/hello", "cell senders", "instance epoch retention_ms host pid")
BYE: Final = Script("cell/bye", "cell heartbeat senders", "instance epoch settled_ms", more_keys="inboxes", frees=True)
BEAT: Final = Script(
    "cell/beat",
    "cell heartbeat senders",
    "instance epoch beat beat_ttl_ms retention_ms",
    more_keys="inboxes",
    frees=True,
)
BURY: Final = Script(
    "cell/bury", "inbox dead cell", "entry reason dead_entries dead_value_bytes retention_ms instance epoch", frees=True
)
#: Put a message into the inbox that any cell has for this sender.
POST: Final = Script("cell/post", "inbox", _SENDER, rest="fields")
#: Put a reply there, unless nobody would read it.
REPLY: Final = Script(
    "cell/reply",
    "inbox",
    f"{_SENDER} cell heartbeat most most_dead most_unknown settled_ms beat_ttl_ms",
    rest="fields",
)
#: Delete entries of the own inboxes that were dealt with; those of an instance that was replaced stay.
SETTLE: Final = Script("cell/settle", "cell", "instance epoch", more_keys="inboxes", rest="entries", frees=True)
#: Ask which of these entries are in a cell's inbox, without reading them.
STILL_POSTED: Final = Script("cell/still_posted", "inbox", _SENDER, rest="entries", frees=True)


def entries_of(entries: Iterable[tuple[str, str]]) -> tuple[list[str], list[Arg]]:
    """Make the further keys and arguments of ``SETTLE``.

    Args:
        entries: the inbox and the id of each.
    """
    by_inbox: dict[str, list[str]] = {}
    for inbox, entry_id in entries:
        by_inbox.setdefault(inbox, []).append(entry_id)
    inboxes, arguments = list[str](), list[Arg]()
    for inbox, ids in by_inbox.items():
        for at in range(0, len(ids), _IDS_AT_ONCE):
            some = ids[at : at + _IDS_AT_ONCE]
            inboxes.append(inbox)
            arguments += (len(some), *some)
    return inboxes, arguments


@lru_cache(maxsize=1024)
def sender_values(
    keys: CellKeys, owner: str, publish: str, retention_ms: int, *, may_keep: bool = True
) -> dict[str, Arg]:
    """Make what the steps of a sender share; whoever gets it must not change it.

    Args:
        keys: of the cell that it writes to.
        owner: of the sender's cell.
        publish: the verb, as ``Server.publish``.
        retention_ms: how long a message of it stays.
        may_keep: the set of senders lives as long; False: only its cell may renew that.
    """
    return {
        "inbox": keys.inbox(owner),
        "owner": owner,
        "senders": keys.senders,
        "doorbell": keys.doorbell,
        "publish": publish,
        "may_keep": int(may_keep),
        "retention_ms": retention_ms,
    }
