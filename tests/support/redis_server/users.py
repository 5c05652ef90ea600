"""Users of Redis with the rights of parties."""

from __future__ import annotations

from typing import Any

import redis
from redflare_broker.rights import Party

PASSWORD = "secret"


def make_user(admin: redis.Redis, party: Party, **ways: bool) -> str:
    """Make a party's user, whose password is ``PASSWORD``, and return its name; ``ways`` as of ``Party.rules``."""
    command: list[Any] = ["ACL", "SETUSER", party.user, "reset", "on", f">{PASSWORD}", *party.rules(**ways)]
    admin.execute_command(*command)  # type: ignore[no-untyped-call]
    return party.user
