"""The program around the embedded Valkey: ``python -m redflare_workers.up.redis_main DIRECTORY PORT``.

PORT is "" for a Unix socket in the directory. It ends when the server does, on SIGTERM, and when its parent is gone:
then the others have some seconds to say bye first.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Final

from redflare_broker.embedded.server import EmbeddedServer
from redflare_broker.errors import ConfigError, RedflareError
from redflare_broker.util.inherited_signals import reset_inherited_signals
from redflare_broker.util.visible import visible

from redflare_workers.processes.ending import GRACE, ProcessEnding
from redflare_workers.util.exit_codes import FAILED, UNAVAILABLE, USAGE
from redflare_workers.util.log_format import log_to_stderr

#: Seconds for the server to write its data and go.
_WRITE_WITHIN: Final = 10.0
#: A title would overwrite the environment, by whose mark the next ``redflare up`` finds a server that is left.
_CONFIG: Final = {"set-proc-title": "no"}


def main(directory: str, port: str) -> int:
    """Run the server until it ends; return the exit code."""
    reset_inherited_signals()
    log_to_stderr()
    ending = ProcessEnding(lambda reason: os._exit(FAILED), grace=GRACE + _WRITE_WITHIN)
    ending.watch()
    try:
        server = EmbeddedServer(directory, int(port) if port else None, _CONFIG).start()
    except RedflareError as error:
        return _refuse(error)

    def stop(_reason: str) -> None:
        if ending.parent_gone.is_set():
            threading.Event().wait(GRACE)
        os.kill(server.pid, signal.SIGTERM)

    with server:
        ending.attach(stop)
        print(f"redflare: ready: Redis listens at {server.url}, its data are in {directory}", file=sys.stderr)
        server.wait()
    if ending.reason:
        return 0
    print(f"redflare: Redis has ended; its log is {directory}/server.log", file=sys.stderr)
    return FAILED


def _refuse(error: RedflareError) -> int:
    print(f"redflare: {visible(' '.join(str(error).split()))}", file=sys.stderr)
    return USAGE if isinstance(error, ConfigError) else UNAVAILABLE


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
