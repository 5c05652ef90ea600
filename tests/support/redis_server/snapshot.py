"""What a Redis holds at one moment, to which it goes back: as after a crash or a failover that lost the last steps."""

from __future__ import annotations

from typing import Any


class Snapshot:
    """All keys of a server, with what is left of their lives."""

    def __init__(self, client: Any) -> None:
        self._client = client
        names = list(client.scan_iter())
        with client.pipeline(transaction=True) as steps:
            for key in names:
                steps.dump(key).pttl(key)
            found = steps.execute()
        values = zip(names, found[::2], found[1::2], strict=True)
        # one that is gone since is not dumped
        self._keys = {key: (value, max(ttl_ms, 0)) for key, value, ttl_ms in values if value is not None}

    def restore(self) -> None:
        """Forget, in one step, what was written since."""
        with self._client.pipeline(transaction=True) as steps:
            steps.flushall()
            for key, (value, ttl_ms) in self._keys.items():
                steps.restore(key, ttl_ms, value)
            steps.execute()
