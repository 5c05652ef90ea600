"""How a Lua script is loaded, sent, and its reply read; ``link_scripts`` and its like say which scripts there are.

A script is one atomic step that answers the same when it is run twice, so a caller that lost the reply runs it again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from operator import itemgetter
from typing import Final

from redflare_broker.config.retention import RetentionPolicy
from redflare_broker.errors import ServerError
from redflare_broker.keys import CellKeys, JobKeys, LinkKeys
from redflare_broker.transport import functions
from redflare_broker.transport.connection import Connection
from redflare_broker.transport.replies import FUNCTION_UNKNOWN, Arg, Kind, RedisReply, ReplyError

#: The step took effect, now or when it was run before.
OK: Final = "OK"
#: Nothing was changed: call again with the epoch that comes with it.
NEXT: Final = "NEXT"
#: A newer instance has taken over; this one must stop.
FENCED: Final = "FENCED"
#: Redis has forgotten the caller: say hello, or join, again.
LOST: Final = "LOST"
#: The job is over; the reason comes with it.
ENDED: Final = "ENDED"
#: What the step is about is not there any more.
GONE: Final = "GONE"
#: What the step is about was never there, or has expired.
UNKNOWN: Final = "UNKNOWN"
#: It has not ended.
OPEN: Final = "OPEN"
#: Another task is open on the link.
BUSY: Final = "BUSY"
#: Another result of the task is in.
DUPLICATE: Final = "DUPLICATE"
#: The payload of this submission was lost: submit again under a new id.
RESEND: Final = "RESEND"
#: The entry is among the dead letters.
BURIED: Final = "BURIED"
#: Another job has this id.
KNOWN: Final = "KNOWN"
#: The job has none of the expected statuses, or its abort was asked for.
REFUSED: Final = "REFUSED"
#: Chunks of a payload are gone; also the return code of who cannot read one.
BLOB_MISSING: Final = "BLOB_MISSING"

#: Commands of one pipeline at most.
PIPELINE_LENGTH: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptReply:
    """A script's reply: a status, and what comes with it."""

    status: str
    rest: tuple[RedisReply, ...] = ()

    def text(self, index: int = 0) -> str:
        """Return the element after the status as text; "" where there is none."""
        value = self.rest[index] if index < len(self.rest) else None
        if value is None:
            return ""
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)

    def number(self, index: int = 0) -> int:
        return int(self.text(index) or 0)


class Script:
    """One Lua script, with the names of its keys and arguments.

    They are declared here once: they are the parameters of ``command``, and in Lua they are locals, which one generated
    line each for KEYS and ARGV puts in front of the body.

    Args:
        name: ``folder/step`` of its file under ``lua/``.
        keys: their names, in order, in one text.
        optional_key: name of a last key that ``command`` may be called without; in Lua it is nil then.
        more_keys: name of any number of further keys; in Lua they begin at ``KEYS[<more_keys>_from]``.
        args: names of the arguments, as ``keys``.
        rest: name of any number of further arguments; in Lua they begin at ``ARGV[<rest>_from]``.
        frees: it must run in a Redis whose memory is full: it frees some, or renews what is there. As a script it may
            once it has freed something, as a function only when it says so beforehand.
    """

    def __init__(
        self,
        name: str,
        keys: str,
        args: str = "",
        *,
        optional_key: str = "",
        more_keys: str = "",
        rest: str = "",
        frees: bool = False,
    ) -> None:
        self.name = name
        self.keys = tuple(keys.split())
        self.args = tuple(args.split())
        self.optional_key = optional_key
        self.more_keys = more_keys
        self.rest = rest
        self.frees = frees
        self._named = _getter(*self.keys, *self.args)
        _declared.setdefault(name, self)
        self._with_optional = _getter(*self.keys, optional_key, *self.args)

    @cached_property
    def sha(self) -> str:
        """The SHA-1 by which Redis knows the script; from now on, ``eval_command`` does too."""
        sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()
        functions.steps[sha] = _by_sha[sha] = self
        return sha

    @cached_property
    def source(self) -> str:
        """The script with what stands in front of it."""
        folder, _, step = self.name.partition("/")
        return "\n".join(
            (_lua("_common.lua"), _lua(f"{folder}/_{folder}.lua"), self._locals(), _lua(f"{folder}/{step}.lua"))
        )

    @cached_property
    def function(self) -> str:
        """The name of the function that does the same."""
        return _function_name(library().name, self.name)

    def _locals(self) -> str:
        """Return the generated lines."""
        optional = (self.optional_key,) if self.optional_key else ()
        lines = [_locals((*self.keys, *optional), "KEYS"), _locals(self.args, "ARGV")]
        if self.more_keys:
            lines.append(f"local {self.more_keys}_from = {len(self.keys) + 1}\n")
        if self.rest:
            lines.append(f"local {self.rest}_from = {len(self.args) + 1}\n")
        return "".join(lines)

    def registration(self, name: str) -> str:
        """Return the Lua that registers the function of this name, behind what stands in front of the script."""
        flags = ", flags={'allow-oom'}" if self.frees else ""
        body = f"{self._locals()}{_lua(f'{self.name}.lua')}"
        return f"redis.register_function{{function_name='{name}'{flags}, callback=function(KEYS, ARGV)\n{body}\nend}}"

    def command(
        self, common: dict[str, Arg], rest: Sequence[Arg] = (), more_keys: Sequence[str] = (), /, **values: Arg
    ) -> list[Arg]:
        """Make the EVALSHA command, for callers that pipeline several.

        Args:
            common: keys and arguments of all steps of a link, a cell or a job; the script takes those that it has.
            rest: the further arguments.
            more_keys: the further keys.
            values: keys and arguments by their names, before those of ``common``.

        Raises:
            KeyError: a name is missing.
        """
        # one merge and one look-up in C: this is done for each step
        if self.optional_key in values:
            return ["EVALSHA", self.sha, len(self.keys) + 1, *self._with_optional(common | values), *rest]
        named, count = self._named(common | values), len(self.keys)
        if more_keys:
            return ["EVALSHA", self.sha, count + len(more_keys), *named[:count], *more_keys, *named[count:], *rest]
        return ["EVALSHA", self.sha, count, *named, *rest]

    def run(
        self,
        connection: Connection,
        common: dict[str, Arg],
        rest: Sequence[Arg] = (),
        more_keys: Sequence[str] = (),
        /,
        **values: Arg,
    ) -> ScriptReply:
        """Run the script; arguments as of ``command``."""
        return parse_reply(self.name, run_pipeline(connection, [self.command(common, rest, more_keys, **values)])[0])

    def __repr__(self) -> str:
        return f"<Script {self.name}>"


def common_values(keys: LinkKeys | CellKeys | JobKeys, policy: RetentionPolicy) -> dict[str, Arg]:
    """Make what all steps of a link, a cell or a job share: its keys, and how long and how much is kept."""
    return {
        **keys.by_name(),
        "retention_ms": policy.retention_ms,
        "settled_ms": policy.settled_ms,
        "dead_entries": policy.dead_entries,
        "dead_value_bytes": policy.dead_value_bytes,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """All scripts as functions of one library of Redis; its name tells releases apart, which may stand side by side."""

    name: str
    source: str

    @classmethod
    def of(cls, scripts: Sequence[Script]) -> Library:
        """Make the library of these scripts, of one file for each folder of ``lua``."""
        digest = hashlib.sha256("".join(f"{script.frees}{script.source}" for script in scripts).encode()).hexdigest()
        name = f"redflare_{digest[:8]}"
        parts = [f"#!lua name={name}", _lua("_common.lua")]
        for folder in sorted({script.name.partition("/")[0] for script in scripts}):
            members = [
                script.registration(_function_name(name, script.name))
                for script in scripts
                if script.name.startswith(f"{folder}/")
            ]
            parts += ["do", _lua(f"{folder}/_{folder}.lua"), *members, "end"]
        return cls(name=name, source="\n".join(parts))


@cache
def library() -> Library:
    """Return the library of this release."""
    return Library.of(sorted(_declared.values(), key=lambda script: script.name))


def _function_name(library: str, script: str) -> str:
    return f"{library}_{script.replace('/', '_')}"


#: Every script of this release; importing the package declares them all.
_declared: Final[dict[str, Script]] = {}


@cache
def _lua(path: str) -> str:
    return (resources.files(__package__) / "lua" / path).read_text("utf-8")


def _getter(*names: str) -> Callable[[dict[str, Arg]], tuple[Arg, ...]]:
    if len(names) == 1:
        return lambda values: (values[names[0]],)
    return itemgetter(*names)


def _locals(names: Sequence[str], table: str) -> str:
    if not names:
        return ""
    values = ", ".join(f"{table}[{number}]" for number, _ in enumerate(names, 1))
    return f"local {', '.join(names)} = {values}\n"


#: Every script that this process has made a command of.
_by_sha: Final[dict[str, Script]] = {}


def eval_command(sent: Sequence[Arg]) -> list[Arg]:
    """Make the EVAL of an EVALSHA, for a Redis that does not know the script; KeyError for a script of others."""
    return ["EVAL", _by_sha[str(sent[1])].source, *sent[2:]]


def script_name(sent: Sequence[Arg]) -> str:
    """Return the name of the script that a command runs."""
    return _by_sha[str(sent[1])].name


def run_pipeline(connection: Connection, commands: Sequence[list[Arg]]) -> list[RedisReply]:
    """Run commands in one round trip, and again those whose script Redis does not know."""
    replies = connection.pipeline(commands)
    unknown = [index for index, reply in enumerate(replies) if is_unknown(reply)]
    if unknown:
        again = teach(connection, [commands[index] for index in unknown])
        for index, reply in zip(unknown, connection.pipeline(again), strict=True):
            replies[index] = reply
    return replies


def teach(connection: Connection, commands: Sequence[list[Arg]]) -> list[list[Arg]]:
    """Return what to send for commands whose scripts Redis did not know; KeyError for a script of others.

    Functions are loaded here. A user who may not load them is told again that they are not there, and waits for who
    may.
    """
    if not connection.functions:
        return [eval_command(sent) for sent in commands]
    load_functions(connection)
    return list(commands)


def is_unknown(reply: RedisReply) -> bool:
    """Whether Redis did not know the script, or its function."""
    return isinstance(reply, ReplyError) and (reply.code == "NOSCRIPT" or reply.rule.words == FUNCTION_UNKNOWN)


def load_functions(connection: Connection) -> RedisReply:
    """Load this release's functions; the reply may be an error: they are there already, or the user may not."""
    return connection.pipeline([["FUNCTION", "LOAD", library().source]])[0]


def run_scripts(connection: Connection, commands: Sequence[list[Arg]]) -> list[ScriptReply]:
    """Run commands of scripts in as few round trips as are reasonable; each node learns a script on its first use."""
    replies: list[ScriptReply] = []
    for first in range(0, len(commands), PIPELINE_LENGTH):
        some = commands[first : first + PIPELINE_LENGTH]
        found = run_pipeline(connection, some)
        replies += [parse_reply(script_name(sent), reply) for sent, reply in zip(some, found, strict=True)]
    return replies


def run_command(connection: Connection, sent: list[Arg]) -> ScriptReply:
    """Run one command of a script; Redis learns the script on its first use."""
    return parse_reply(script_name(sent), run_pipeline(connection, [sent])[0])


def parse_reply(name: str, reply: RedisReply) -> ScriptReply:
    """Read a script's reply.

    Raises:
        Unavailable: Redis refuses it for now.
        ServerError: it is none.
    """
    if isinstance(reply, ReplyError):
        if reply.rule.kind is not Kind.FINAL:
            raise reply.error("Redis", f"script {name}")
        raise ServerError(f"script {name} failed in Redis: {reply}")
    if not isinstance(reply, list) or not reply or not isinstance(reply[0], bytes):
        raise ServerError(f"script {name} answered {reply!r}, which is not an answer of this protocol")
    return ScriptReply(status=reply[0].decode(), rest=tuple(reply[1:]))
