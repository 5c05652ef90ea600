"""Payloads are read into and sent from the arrays' own memory: a copy would show in the peak of a process's memory."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from redflare_broker.embedded.server import EmbeddedServer

MB = 1 << 20
SIZE = 64 * MB
#: Peak beyond the array itself, in bytes; none is needed, and the kernel counts coarsely.
ALLOWED = 2 * MB

CHILD = r"""
    import pathlib, re, sys
    import numpy as np
    from redflare_broker.payload.redis_store import RedisPayloadStore
    from redflare_broker.transport.server import Server
    from redflare_broker.wire.task_entry import BlobRef

    url, step, size = sys.argv[1], sys.argv[2], int(sys.argv[3])

    def resident(field):
        status = pathlib.Path("/proc/self/status").read_text()
        return int(re.search(field + r":\s+(\d+) kB", status)[1]) * 1024

    def move(server, prefix, array):
        view = memoryview(array).cast("B")
        if step == "store":
            RedisPayloadStore(server).put(prefix, [view], chunk=1 << 20, ttl_ms=60_000)
        else:
            RedisPayloadStore(server).fetch(BlobRef(prefix=prefix, chunk=1 << 20, sizes=(len(view),)), [view])

    with Server.connect(url) as server:
        move(server, "small", np.full(1 << 21, 7, "u1"))  # warm: imports, buffers, pages
        array = np.full(size, 7, "u1")
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak is that of now
        before = resident("VmRSS")
        move(server, "{big}", array)
        print(resident("VmHWM") - before)
    assert array.min() == array.max() == 7
"""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with EmbeddedServer() as server:
        yield server.url


def extra_peak(url: str, step: str) -> int:
    """Bytes by which a process's peak memory grows while it moves an array that it already holds."""
    command = [sys.executable, "-c", textwrap.dedent(CHILD), url, step, str(SIZE)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads the peak from Linux's /proc")
def test_neither_side_holds_a_second_copy_of_a_payload(url: str) -> None:
    assert extra_peak(url, "store") < ALLOWED
    assert extra_peak(url, "load") < ALLOWED
