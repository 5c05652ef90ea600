"""The program of a process of ``redflare up``: the ``redflare`` command, which ends when its standard input does.

The parent holds the other end of it; when that was killed, nobody else would end this process.
"""

from __future__ import annotations

import os
import signal

from redflare_workers.processes.ending import ProcessEnding

from . import main

if __name__ == "__main__":
    ProcessEnding(lambda reason: os.kill(os.getpid(), signal.SIGTERM)).watch(signals=False)
    main()
