"""``Client``: one site as the server sees it. After NVFlare's ``Client``."""

from __future__ import annotations

import copy
import time
from typing import Any, Final


class ClientPropKey:
    """Keys of a client's props."""

    #: Fully qualified name of its cell; the name of the client by default.
    FQCN: Final = "fqcn"
    #: Fully qualified name of its site in a hierarchy of sites.
    FQSN: Final = "fqsn"
    #: Whether it has no sites below it.
    IS_LEAF: Final = "is_leaf"
    ORG: Final = "org"
    SITE_CONFIG: Final = "site_config"


class Client:
    """One site that takes part.

    Args:
        token: identifies the session of the site at the server; never part of ``to_dict``.
    """

    def __init__(self, name: str, token: str) -> None:
        self.name = name
        self.token = token
        #: Seconds since the epoch.
        self.last_connect_time = time.time()
        self.props: dict[str, Any] = {ClientPropKey.FQCN: name, ClientPropKey.FQSN: name, ClientPropKey.IS_LEAF: True}

    def __repr__(self) -> str:
        return f"Client(name={self.name!r}, fqcn={self.get_fqcn()!r})"

    def set_token(self, token: str) -> None:
        """Replace the token: the site has begun a new session."""
        self.token = token

    def get_token(self) -> str:
        """Return the token of the site's session at the server."""
        return self.token

    def set_prop(self, name: str, value: Any) -> None:
        """Set one prop, of ``ClientPropKey`` or of the application's own."""
        self.props[name] = value

    def get_prop(self, name: str, default: Any = None) -> Any:
        """One prop, or ``default``."""
        return self.props.get(name, default)

    def set_fqcn(self, value: str) -> None:
        """Set the fully qualified name of its cell."""
        self.set_prop(ClientPropKey.FQCN, value)

    def get_fqcn(self) -> Any:
        """Return the fully qualified name of its cell."""
        return self.get_prop(ClientPropKey.FQCN)

    def set_fqsn(self, value: str) -> None:
        """Set the fully qualified name of its site."""
        self.set_prop(ClientPropKey.FQSN, value)

    def get_fqsn(self) -> Any:
        """Return the fully qualified name of its site."""
        return self.get_prop(ClientPropKey.FQSN)

    def set_is_leaf(self, value: bool) -> None:
        """Set whether it has no sites below it."""
        self.set_prop(ClientPropKey.IS_LEAF, value)

    def get_is_leaf(self) -> Any:
        """Whether it has no sites below it."""
        return self.get_prop(ClientPropKey.IS_LEAF)

    def set_site_config(self, value: dict[str, Any]) -> None:
        """Store a copy of the site's configuration; all members of the job may read it, so no secrets."""
        self.set_prop(ClientPropKey.SITE_CONFIG, copy.deepcopy(value))

    def get_site_config(self) -> Any:
        """Return the site's configuration, or None."""
        return self.get_prop(ClientPropKey.SITE_CONFIG)

    def to_dict(self) -> dict[str, Any]:
        """Return the properties that other sites may see: the name, and those that differ from their defaults."""
        usual = {ClientPropKey.FQCN: self.name, ClientPropKey.FQSN: self.name, ClientPropKey.IS_LEAF: True}
        unusual = {key: self.get_prop(key) for key, value in usual.items() if self.get_prop(key) != value}
        site_config = self.get_site_config()
        if site_config is not None:
            unusual[ClientPropKey.SITE_CONFIG] = copy.deepcopy(site_config)
        return {"name": self.name, **unusual}
