"""Every step of a cell: the scripts ``lua/cell/*.lua``; ``common_values`` and a lease have most of their values."""

from __future__ import annotations

from typing import Final

from .script import Script

#: Take the cell over; with an epoch, take it up again after Redis lost it.
HELLO: Final = Script("cell/hello", "cell inbox", "instance epoch retention_ms host pid")
BYE: Final = Script("cell/bye", "cell inbox heartbeat", "instance epoch settled_ms", frees=True)
BEAT: Final = Script("cell/beat", "cell inbox heartbeat", "instance epoch beat beat_ttl_ms retention_ms", frees=True)
BURY: Final = Script(
    "cell/bury", "inbox dead cell", "entry reason dead_entries dead_value_bytes retention_ms instance epoch", frees=True
)
#: Put a message into any cell's inbox.
POST: Final = Script("cell/post", "inbox", "retention_ms", rest="fields")
#: Put a reply into the inbox of the cell that has asked, unless nobody would read it.
REPLY: Final = Script(
    "cell/reply",
    "inbox cell heartbeat",
    "most most_dead most_unknown retention_ms settled_ms beat_ttl_ms",
    rest="fields",
)
#: Delete entries of the own inbox that were dealt with; those of an instance that was replaced stay.
SETTLE: Final = Script("cell/settle", "inbox cell", "instance epoch", rest="entries", frees=True)
#: Ask which of these entries are in a cell's inbox, without reading them.
STILL_POSTED: Final = Script("cell/still_posted", "inbox", rest="entries", frees=True)
