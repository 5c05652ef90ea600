"""What a Redis holds at one moment, to which it goes back: as after a crash or a failover that lost the last steps."""

from __future__ import annotations

from typing import Any


class Snapshot:
    """All keys of a fakeredis server, with what is left of their lives."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._keys = {key: (client.dump(key), max(client.pttl(key), 0)) for key in client.scan_iter()}

    def restore(self) -> None:
        """Forget, in one step, what was written since."""
        with self._client.pipeline(transaction=True) as steps:
            steps.flushall()
            for key, (value, ttl_ms) in self._keys.items():
                steps.restore(key, ttl_ms, value)
            steps.execute()
