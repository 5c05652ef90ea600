"""Replies of a server: which of its errors mean "away" and which mean "no".

An error reply is a value inside a pipeline, so that one refused command does not hide the answers of the others. Some
errors are about the server's state and pass by (a failover, a restart): they become ``Unavailable``. All others are
final: ``require`` raises them as ``ServerError`` with what to do. NOSCRIPT stays a ``ReplyError``: the sender of the
EVALSHA knows the script and loads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias, Union

from redflare_broker.errors import BlobMissing, DecodeError, ServerError, Unavailable

Arg: TypeAlias = str | bytes | int | float | memoryview
Command: TypeAlias = Sequence[Arg]
RedisReply: TypeAlias = Union[bytes, int, list["RedisReply"], "ReplyError", None]

#: First words of error replies of a server that is starting, failing over, moving slots, or stuck in a script.
TRANSIENT: Final = frozenset(
    ["LOADING", "READONLY", "CLUSTERDOWN", "MASTERDOWN", "TRYAGAIN", "MOVED", "ASK", "UNBLOCKED", "NOREPLICAS", "BUSY"]
)

_REMEDIES: Final = {
    "NOPERM": "Grant this ACL user what the reply names: +command, ~key or &channel (ACL GETUSER shows its rules).",
    "NOAUTH": "Set the user and password of this server.",
    "WRONGPASS": "Correct the user and password of this server.",
    "OOM": "Raise maxmemory (CONFIG SET maxmemory), or free space on the server.",
    "MISCONF": "The server cannot save to its disk; read its log, free disk space or correct its permissions.",
    "WRONGTYPE": "Another program uses this key; give redflare a namespace or a database of its own.",
    "CROSSSLOT": "The keys of one command must share a hash tag; this is a bug in the caller.",
}
#: Questions about a server that ends a connection before it has answered anything.
ASK_CERTIFICATE: Final = "Does it accept this side's client certificate (client_cert, client_key), and is it up?"
ASK_TLS: Final = "Is it a port for TLS? Then use rediss://; else, is it up?"
_OTHER_REMEDY: Final = "See the server's documentation and log; the same command would be refused again."


class ReplyError(ServerError):
    """An error reply (``-NOSCRIPT No matching script.``) as it came; ``code`` is its first word."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.code = text.partition(" ")[0]


def check_transient(reply: ReplyError, node: str) -> None:
    """Raise ``Unavailable`` if an error reply is about a passing state of the server."""
    if reply.code in TRANSIENT:
        raise Unavailable(f"{node} cannot serve now: {reply}")


def require(reply: RedisReply, node: str) -> RedisReply:
    """Return the reply of a command that had to succeed.

    Raises:
        ReplyError: it is a NOSCRIPT error.
        ServerError: it is another error; the message names the server, its words, and what to do.
    """
    if not isinstance(reply, ReplyError):
        return reply
    if reply.code == "NOSCRIPT":
        raise reply
    remedy = _REMEDIES.get(reply.code, _OTHER_REMEDY)
    raise ServerError(f"{node} refused a command: {sentence(reply)} {remedy}") from reply


def sentence(error: object) -> str:
    """What a server or a library says, with one mark at its end."""
    text = str(error).rstrip(". ")
    return text if text.endswith("?") else f"{text}."


def missing(node: str, key: str) -> BlobMissing:
    """Make the error for a chunk of a payload that is not there."""
    return BlobMissing(f"{node} has no {key!r} (expired, or lost in a failover); its sender must send it again")


def wrong_size(key: str, held: str, expected: int) -> DecodeError:
    """Make the error for a chunk of a payload that has not the announced size."""
    return DecodeError(f"{key!r} holds {held} bytes where {expected} were announced")


def entries_in(items: list[RedisReply]) -> list[tuple[str, list[bytes]]]:
    """Return the entries of a stream as XREAD and XRANGE list them: id, and fields and values in turn."""
    found: list[tuple[str, list[bytes]]] = []
    for item in items:
        if isinstance(item, list) and isinstance(item[0], bytes) and isinstance(item[1], list):
            found.append((item[0].decode(), [value for value in item[1] if isinstance(value, bytes)]))
    return found
