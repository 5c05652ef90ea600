"""The program of a process with sites: ``python -m redflare_workers.simulator.site_program``.

It reads ``SiteProcessArgs`` from its standard input, which stays open while the simulation runs; its end, on purpose or
because the simulating process was killed, ends this process too. It exits with 0 when its job has ended, and with 1
when a site has failed; the reason is the last line of its output.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Final

from redflare_broker.errors import RedflareError
from redflare_broker.util.inherited_signals import reset_inherited_signals

from .site_process_args import unpack
from .sites import Sites

#: Seconds between the end of the simulation and an end by force.
_GRACE: Final = 5.0


def main() -> int:
    """Run the sites; return the exit code."""
    reset_inherited_signals()
    source = open(0, "rb", closefd=False)  # noqa: SIM115  # sys.stdin's lock would be in the way at the exit
    failures: list[str] = []
    over = threading.Event()

    def fail(reason: str) -> None:
        failures.append(reason)
        over.set()

    try:
        sites = Sites(unpack(source), fail)
        threading.Thread(target=_watch, args=(sites,), name="redflare-lifeline", daemon=True).start()
        sites.start()
    except RedflareError as error:
        return _fail(str(error))
    threading.Thread(target=_await_end, args=(sites, over), name="redflare-sites", daemon=True).start()
    over.wait()
    if failures:
        return _fail(failures[0])
    if sites.busy:
        # a thread that runs the function of a site would hold up an ordinary exit
        _flush()
        os._exit(0)
    return 0


def _watch(sites: Sites) -> None:
    while os.read(0, 64):
        pass
    sites.stop("the simulation has ended")
    threading.Event().wait(_GRACE)
    os._exit(1)


def _await_end(sites: Sites, over: threading.Event) -> None:
    sites.wait()
    over.set()


def _fail(reason: str) -> int:
    print(reason, file=sys.stderr, flush=True)
    # other sites may be in the middle of a task
    _flush()
    os._exit(1)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()


if __name__ == "__main__":
    sys.exit(main())
