"""Where a link is: a workspace's ``redflare.json``, for programs whose arguments do not say.

``docs/nvflare.md`` documents its keys. What is missing in it must come from arguments.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Final

from redflare_broker.errors import ConfigError

from .settings import read_object, refuse_unknown

LINK_FILE: Final = "redflare.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkAddress:
    """What names a link and its Redis; "" is what is not known."""

    redis_url: str = field(default="", repr=False)
    site_name: str = ""
    agent_id: str = ""
    job_id: str = ""
    secure_mode: bool = False


def load_address(path: str | Path) -> LinkAddress:
    """Read a link file; one that does not exist is like an empty one.

    Raises:
        ConfigError: a ValueError; names the file and the key.
    """
    found = read_object(Path(path))
    refuse_unknown(found, tuple(item.name for item in fields(LinkAddress)), str(path))
    for item in fields(LinkAddress):
        value = found.get(item.name, item.default)
        if not isinstance(value, type(item.default)):
            # a URL may hold a password
            got = f"a {type(value).__name__}" if item.name == "redis_url" else repr(value)
            raise ConfigError(f"{path}: {item.name} must be a {type(item.default).__name__}, but is {got}")
    return LinkAddress(**found)
