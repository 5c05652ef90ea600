"""The floors for small tasks: the least that a careful use of redis-py costs, without any promise of ours kept.

**streams-lua**: CJ and agent each hold one connection and do two commands per task: a blocking XREADGROUP and one
script that acknowledges and deletes what was read and adds the answer. No ledger, no fencing, no heartbeat, no codec
beyond JSON.

**bare redis-py**: a queue filled beforehand, one worker that reads one entry at a time, adds a result and acknowledges.
"""

from __future__ import annotations

import threading
import time
from typing import Any, Final

import orjson
import redis

#: Acknowledge and delete what was read, add the next entry: one step, one round trip.
STEP: Final = """
if ARGV[2] ~= '' then
  redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
  redis.call('XDEL', KEYS[1], ARGV[2])
end
return redis.call('XADD', KEYS[2], '*', 'data', ARGV[3])
"""
GROUP: Final = "floor"


def _connect(url: str) -> Any:
    # One connection and no pool: redis-py at its quickest. Long blocks must not run into the socket timeout.
    return redis.Redis.from_url(url, single_connection_client=True, socket_timeout=None)


class _End:
    """One side of the floor's link: reads from one stream and answers into the other."""

    def __init__(self, url: str, read: str, write: str) -> None:
        self._redis = _connect(url)
        self._redis.xgroup_create(read, GROUP, id="0", mkstream=True)
        self._sha = self._redis.script_load(STEP)
        self._read, self._write = read, write
        self._held: str | bytes = ""

    def next(self) -> Any:
        """Block for the next entry and return its data."""
        reply: Any = self._redis.execute_command(
            "XREADGROUP", "GROUP", GROUP, "one", "COUNT", 1, "BLOCK", 0, "STREAMS", self._read, ">"
        )
        entries = reply[self._read.encode()][0] if isinstance(reply, dict) else reply[0][1]
        self._held, fields = entries[0]
        return orjson.loads(fields[b"data"] if isinstance(fields, dict) else fields[1])

    def answer(self, data: object) -> None:
        """Settle what was read last and add ``data`` to the other stream."""
        self._redis.execute_command(
            "EVALSHA", self._sha, 2, self._read, self._write, GROUP, self._held, orjson.dumps(data)
        )
        self._held = ""


class FloorAgent:
    """Answers every task with its own data, for as long as the process lives."""

    def __init__(self, url: str, name: str) -> None:
        self._end = _End(url, f"context:{name}:tasks", f"context:{name}:results")
        threading.Thread(target=self._work, name="floor-agent", daemon=True).start()

    def _work(self) -> None:
        while True:
            self._end.answer(self._end.next())


class FloorCaller:
    """Hands out tasks one after another and times each."""

    def __init__(self, url: str, name: str) -> None:
        self._end = _End(url, f"context:{name}:results", f"context:{name}:tasks")

    def round_trips(self, count: int) -> list[float]:
        """Seconds of each of ``count`` round trips, back to back."""
        return [self._round_trip(number) for number in range(count)]

    def _round_trip(self, number: int) -> float:
        begin = time.monotonic()
        self._end.answer({"data": {"x": number}, "meta": {}})
        self._end.next()
        return time.monotonic() - begin


class BareWorker:
    """A worker with plain redis-py calls on a queue that was filled beforehand."""

    def __init__(self, url: str) -> None:
        self._redis = _connect(url)

    def tasks_per_second(self, count: int) -> float:
        """Fill the queue with ``count`` tasks, then work it off one by one."""
        client = self._redis
        client.delete("context:bare:tasks", "context:bare:results")
        client.xgroup_create("context:bare:tasks", GROUP, id="0", mkstream=True)
        with client.pipeline(transaction=False) as pipe:
            for number in range(count):
                pipe.xadd("context:bare:tasks", {"data": orjson.dumps({"x": number})})
            pipe.execute()
        begin = time.monotonic()
        for _ in range(count):
            reply: Any = client.xreadgroup(GROUP, "one", {"context:bare:tasks": ">"}, count=1)
            entries = reply[b"context:bare:tasks"][0] if isinstance(reply, dict) else reply[0][1]
            entry_id, fields = entries[0]
            client.xadd("context:bare:results", {"data": orjson.dumps(orjson.loads(fields[b"data"]))})
            client.xack("context:bare:tasks", GROUP, entry_id)
        rate = count / (time.monotonic() - begin)
        client.delete("context:bare:tasks", "context:bare:results")
        return rate
