"""Who may do what in Redis: one table, from which the rules of users, the documentation and its tests are made.

Every key has one owner, named by its hash tag or by its end, and nobody but the owner and the server may write it. So
what stands in a key that only site-1's user can write was written by site-1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final, Literal

from .errors import ConfigError
from .fqcn import check_name
from .keys import DEFAULT_NAMESPACE, Keys

Kind = Literal["server", "site", "agent"]
#: ``~``: read and write; ``%R~``: read; ``&``: publish to a channel and listen to it.
Access = Literal["~", "%R~", "&"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Right:
    """One right of one kind of party."""

    kind: Kind
    access: Access
    #: glob of keys or channels; NS, SERVER, SITE and NAME are the namespace, the server, an agent's site, the party.
    pattern: str
    #: what it is needed for
    purpose: str
    #: the only commands that may use it, in a selector of their own; empty: all that the party has
    only: tuple[str, ...] = ()


def _rights(kind: Kind, *rows: tuple[Access, str, str]) -> tuple[Right, ...]:
    return tuple(Right(kind=kind, access=access, pattern=pattern, purpose=purpose) for access, pattern, purpose in rows)


_PLACEHOLDER: Final = re.compile(r"NS:|NAME|SITE|SERVER")
#: Every right.
TABLE: Final = (
    *_rights(
        "server",
        ("~", "NS:*", "it alone writes what all share: jobs, records, logs"),
        ("&", "NS:*", "wake-ups"),
    ),
    *_rights(
        "site",
        ("~", "NS:{NAME}:*", "its own cell"),
        ("~", "NS:{NAME.*}:*", "the cells of its jobs, and the links of their agents"),
        ("~", "NS:{NAME--*}:*", "the links of its agents"),
        ("~", "NS:{*}:inbox:NAME", "what it sends to other cells"),
        ("~", "NS:{SERVER}:client:NAME", "that it is connected to the server"),
        ("~", "NS:{SERVER}:heartbeat:NAME", "the same"),
        ("%R~", "NS:{SERVER}:job", "whether the server is there"),
        ("~", "NS:{SERVER.*}:client:NAME", "its membership of a job"),
        ("~", "NS:{SERVER.*}:heartbeat:NAME", "its heartbeat in a job"),
        ("%R~", "NS:{SERVER.*}:job", "whether the job goes on"),
        ("%R~", "NS:{*}:cell", "whether a cell is there"),
        ("%R~", "NS:{*}:heartbeat", "whether a cell is alive"),
        ("%R~", "NS:{SERVER}:blob:*", "apps of jobs"),
        ("%R~", "NS:{*.*}:blob:*", "payloads of jobs, by names that nobody can guess"),
        ("&", "NS:{NAME}:*", "wake-ups of its cell"),
        ("&", "NS:{NAME.*}:*", "wake-ups of its jobs"),
        ("&", "NS:{NAME--*}:*", "wake-ups of its agents"),
        ("&", "NS:{*}:doorbell", "that it has sent something"),
    ),
    Right(kind="site", access="~", pattern="NS:{*}:senders", purpose="who has sent something", only=("sadd",)),
    Right(kind="site", access="~", pattern="NS:{SERVER}:clients", purpose="who is connected", only=("sadd",)),
    Right(kind="site", access="~", pattern="NS:{SERVER.*}:clients", purpose="who takes part in a job", only=("sadd",)),
    *_rights(
        "agent",
        ("~", "NS:{SITE--NAME}:*", "its link"),
        ("~", "NS:{SITE.*.NAME}:*", "its link in a job"),
        ("%R~", "NS:{SERVER.*}:blob:*", "payloads that are passed on to it, by names that nobody can guess"),
        ("&", "NS:{SITE--NAME}:*", "wake-ups"),
        ("&", "NS:{SITE.*.NAME}:*", "wake-ups in a job"),
    ),
    Right(kind="agent", access="~", pattern="NS:agents", purpose="that it is there", only=("zadd",)),
)

_LINK: Final = (
    *("time", "ping", "info", "set", "get", "del", "unlink", "pexpire", "pttl", "hset", "hget", "hmget", "hdel"),
    *("xadd", "xread", "xrange", "xdel", "xlen", "publish", "subscribe", "unsubscribe", "acl|whoami"),
    # steps as functions, which the server loads: with scripts of its own any user could stop Redis
    "fcall",
)
_CELL: Final = ("scard", "srandmember", "sadd")
_JOB: Final = ("hgetall", "hkeys", "hincrby", "zadd", "zrange", "zrem", "zremrangebyscore")
#: Commands of each kind of party.
COMMANDS: Final[dict[Kind, tuple[str, ...]]] = {
    "server": (*_LINK, *_CELL, *_JOB, "zscore", "function|load"),
    "site": (*_LINK, *_CELL, *_JOB),
    "agent": (*_LINK, "zadd"),
}
_CLUSTER: Final = ("cluster|slots", "spublish", "ssubscribe", "sunsubscribe")
#: Notices of a primary that was demoted.
_SENTINEL: Final = ("role",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Party:
    """A server, a site or an agent.

    Raises:
        ConfigError: a name is not legal, or an agent's site is missing.
    """

    kind: Kind
    name: str
    #: of an agent
    site: str = ""
    #: the name of its server
    server: str = "server"
    namespace: str = DEFAULT_NAMESPACE

    def __post_init__(self) -> None:
        check_name(self.name, f"name of the {self.kind}")
        check_name(self.server, "name of the server")
        Keys(self.namespace)
        if (self.kind == "agent") != bool(self.site):
            raise ConfigError(f"an agent has a site, and nobody else: {self.kind} {self.name!r}, site {self.site!r}")
        if self.site:
            check_name(self.site, "name of the site")

    @property
    def user(self) -> str:
        """The name of its user in Redis."""
        return f"{self.site}--{self.name}" if self.site else self.name

    def rights(self) -> tuple[Right, ...]:
        """Return its rights, with the names put into their patterns."""
        return tuple(replace(row, pattern=self._named(row.pattern)) for row in TABLE if row.kind == self.kind)

    def _named(self, pattern: str) -> str:
        words = {"NS:": f"{self.namespace}:", "NAME": self.name, "SITE": self.site, "SERVER": self.server}
        return _PLACEHOLDER.sub(lambda found: words[found.group()], pattern)

    def rules(self, *, cluster: bool = False, sentinel: bool = False) -> list[str]:
        """Make the rules of its user for ``ACL SETUSER``, without its password; a selector is one of them.

        Args:
            cluster: of a cluster, where channels are sharded.
            sentinel: its primary is found through Sentinels.
        """
        rights = self.rights()
        commands = COMMANDS[self.kind] + (_CLUSTER if cluster else ()) + (_SENTINEL if sentinel else ())
        plain = [f"{row.access}{row.pattern}" for row in rights if not row.only]
        selectors = [
            f"({' '.join(f'+{word}' for word in row.only)} {row.access}{row.pattern})" for row in rights if row.only
        ]
        return ["resetkeys", "resetchannels", "-@all", *plain, *(f"+{word}" for word in commands), *selectors]
