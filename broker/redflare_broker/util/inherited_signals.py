"""What a program inherits of its parent's signals, and should not."""

from __future__ import annotations

import signal
from typing import Any, Final

#: What a program has that was started from a terminal. A job that a shell runs in the background ignores SIGINT; one
#: whose parent ignores SIGCHLD does too, and the kernel forgets the exit codes of its children.
_USUAL: Final[dict[signal.Signals, Any]] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGCHLD: signal.SIG_DFL,
}


def reset_inherited_signals() -> None:
    """Undo that SIGINT or SIGCHLD is ignored, or blocked; call it at the start of a program, in its main thread."""
    for number, handler in _USUAL.items():
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _USUAL)
