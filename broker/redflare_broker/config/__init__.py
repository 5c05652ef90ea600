"""What a process may set: how long things are kept in Redis, and a workspace's ``comm_config.json``.

Start at: ``settings.load_settings``, which reads a workspace into a ``LinkSettings``; ``docs/configuration.md``
documents every key. An unknown key or a bad value is a ``ConfigError`` that names file, key and what is accepted.

May import: transport, wire, util and the root; no folder that acts on Redis.
"""

from redflare_broker.transport.server import ConnectionOptions

from .retention import JobRetentionPolicy, RetentionPolicy
from .settings import LinkSettings, load_settings

__all__ = ["ConnectionOptions", "JobRetentionPolicy", "LinkSettings", "RetentionPolicy", "load_settings"]
