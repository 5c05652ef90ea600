"""Channels, topics and meta keys of the messages between engines, which their cells carry.

The content of a message is a Shareable, see ``shareable_codec``.
"""

from __future__ import annotations

from typing import Final

#: Channel of aux messages; requests are answered with a Shareable.
AUX: Final = "aux"
#: Channel of object streams.
STREAM: Final = "stream"

#: Topic of every aux message: the component's topic is in the meta, where any str is allowed.
SEND: Final = "send"
#: Topic: an object of a stream. A request; the reply comes when it was consumed.
OBJECT: Final = "object"
#: Topic: the sender's end of a stream. An event.
END: Final = "end"

#: The peer in the target's cell that the message is for; several may share a cell.
TO: Final = "to"
#: Meta of the Shareable.
MESSAGE: Final = "message"
#: The topic of an aux message; channel and topic of a stream.
TOPIC: Final = "topic"
CHANNEL: Final = "channel"

#: The stream's id, and the number of the object in it, from 0.
STREAM_ID: Final = "stream_id"
SEQ: Final = "seq"
#: In the first object: how many objects its sender would have in flight. In a reply: how many it may.
WINDOW: Final = "window"
#: In the event END: the return code with which the sender ends.
RC: Final = "rc"
