"""Replies of Redis: which of its errors pass by, and which are final; ``RULES`` is the one table of them.

An error reply is a value inside a pipeline, so that one refused command does not hide the answers of the others. What
passes by (a restart, a failover, memory or disk that is full) becomes ``Unavailable``, and its caller tries again. All
other errors are final: ``require`` raises them as ``ServerError`` with what to do. NOSCRIPT stays a ``ReplyError``: the
sender of the EVALSHA knows the script and loads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias, Union, cast

from redflare_broker.errors import BlobMissing, DecodeError, RedflareError, ServerError, Unavailable

Arg: TypeAlias = str | bytes | int | float | memoryview
Command: TypeAlias = Sequence[Arg]
RedisReply: TypeAlias = Union[bytes, int, list["RedisReply"], "ReplyError", None]


class Kind(Enum):
    """What an error reply means for its command, and for the connection that it came on."""

    #: It cannot serve now: connect again, maybe to another one.
    AWAY = "away"
    #: It refuses the command for now; the connection goes on.
    WAIT = "wait"
    #: The same command would be refused again.
    FINAL = "final"


@dataclass(frozen=True, slots=True)
class ReplyRule:
    """What the error replies that begin with some words mean, and what to do about them."""

    words: str
    kind: Kind
    remedy: str


#: How Redis says that a function was not loaded.
FUNCTION_UNKNOWN: Final = "ERR Function not found"
#: Every error reply that is known; any other is final.
RULES: Final = (
    ReplyRule("LOADING", Kind.AWAY, "It reads its data from disk and serves when that is done."),
    ReplyRule("READONLY", Kind.AWAY, "It is a replica; its primary, or a failover, serves writes."),
    ReplyRule("MASTERDOWN", Kind.AWAY, "It is a replica without its primary; see whether that is up."),
    ReplyRule("NOREPLICAS", Kind.AWAY, "It has fewer replicas than min-replicas-to-write; see whether they are up."),
    ReplyRule("CLUSTERDOWN", Kind.AWAY, "A part of the cluster is down; see CLUSTER INFO."),
    ReplyRule("TRYAGAIN", Kind.AWAY, "The cluster is moving slots."),
    ReplyRule("MOVED", Kind.AWAY, "The cluster has moved a slot."),
    ReplyRule("ASK", Kind.AWAY, "The cluster is moving a slot."),
    ReplyRule("UNBLOCKED", Kind.AWAY, "It has become a replica."),
    ReplyRule("BUSY", Kind.AWAY, "A script or function runs for too long; end it with SCRIPT KILL or FUNCTION KILL."),
    ReplyRule("ERR max number of clients", Kind.AWAY, "Raise maxclients (CONFIG SET maxclients), or end some clients."),
    ReplyRule(
        FUNCTION_UNKNOWN,
        Kind.WAIT,
        "Redis has not the functions of this release of redflare: its server loads them when it starts.",
    ),
    ReplyRule("OOM", Kind.WAIT, "Raise maxmemory (CONFIG SET maxmemory), or free space in Redis."),
    ReplyRule(
        "MISCONF",
        Kind.WAIT,
        "Redis cannot save to its disk; read its log, free disk space or correct its permissions.",
    ),
    ReplyRule(
        "NOPERM",
        Kind.FINAL,
        "Grant this ACL user what the reply names: +command, ~key or &channel (ACL GETUSER shows its rules).",
    ),
    ReplyRule("NOAUTH", Kind.FINAL, "Set the user and password of this Redis."),
    ReplyRule("WRONGPASS", Kind.FINAL, "Correct the user and password of this Redis."),
    ReplyRule(
        "WRONGTYPE",
        Kind.FINAL,
        "Another program uses this key; give redflare a namespace or a database of its own.",
    ),
    ReplyRule("CROSSSLOT", Kind.FINAL, "The keys of one command must share a hash tag; this is a bug in the caller."),
)
_OTHER: Final = ReplyRule(
    "", Kind.FINAL, "See the documentation and the log of Redis; the same command would be refused again."
)
#: Questions about a Redis that ends a connection before it has answered anything.
ASK_CERTIFICATE: Final = "Does it accept this side's client certificate (client_cert, client_key), and is it up?"
ASK_TLS: Final = "Is it a port for TLS? Then use rediss://; else, is it up?"


class ReplyError(ServerError):
    """An error reply (``-NOSCRIPT No matching script.``) as it came; ``code`` is its first word."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.code = text.partition(" ")[0]

    @property
    def rule(self) -> ReplyRule:
        """The line of the table that this reply falls under."""
        text = f"{self} "
        return next((rule for rule in RULES if text.startswith(f"{rule.words} ")), _OTHER)

    def error(self, node: str, what: str = "a command") -> RedflareError:
        """Make the error to raise for this reply: ``Unavailable`` if it passes by, else ``ServerError``."""
        rule = self.rule
        if rule.kind is Kind.FINAL:
            return ServerError(f"{node} refused {what}: {sentence(self)} {rule.remedy}")
        does = "cannot serve now" if rule.kind is Kind.AWAY else f"refused {what} for now"
        return Unavailable(f"{node} {does}: {sentence(self)} {rule.remedy}", cause=rule.words)


def check_away(reply: ReplyError, node: str) -> None:
    """Raise ``Unavailable`` if an error reply says that Redis cannot serve now."""
    if reply.rule.kind is Kind.AWAY:
        raise reply.error(node)


def require(reply: RedisReply, node: str) -> RedisReply:
    """Return the reply of a command that had to succeed.

    Raises:
        Unavailable: it is an error that passes by.
        ReplyError: it is a NOSCRIPT error.
        ServerError: it is another error; the message names the Redis, its words, and what to do.
    """
    if not isinstance(reply, ReplyError):
        return reply
    if reply.code == "NOSCRIPT":
        raise reply
    raise reply.error(node) from reply


def sentence(error: object) -> str:
    """Return what a server or a library says, with one mark at its end."""
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
            # Redis has no other fields and values in a stream
            found.append((item[0].decode(), cast("list[bytes]", item[1])))
    return found
