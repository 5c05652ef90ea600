"""A private Valkey server: started by this process, and ended with it, however this process ends.

Start at: ``EmbeddedServer``. ``watchdog_main`` is the program of the small process between, which ends the server when
its user is gone; ``watchdog`` is its other end, in this process.

May import: transport, util and the root.
"""

from .server import EmbeddedServer

__all__ = ["EmbeddedServer"]
