"""``Executor``: the component of a client job that carries out tasks. After NVFlare's ``Executor``."""

from __future__ import annotations

from abc import ABC, abstractmethod

from .fl_component import FLComponent
from .fl_context import FLContext
from .shareable import Shareable
from .signal import Signal


class Executor(FLComponent, ABC):
    """Carries out the tasks a client job pulls."""

    #: It passes data on as it is: the DXO of a task may hold a ``Sealed`` instead of the tree itself, and so may the
    #: DXO of its reply. To any other executor the client job gives the opened tree.
    accepts_sealed: bool = False

    def __init__(self) -> None:
        super().__init__()
        #: Set it when what the task asks for must not be done here; the job is then treated as unsafe.
        self.unsafe = False

    @abstractmethod
    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        """Carry out one task.

        Args:
            task_name: what to do.
            shareable: the task's data, as a rule a DXO.
            fl_ctx: the context of the client job.
            abort_signal: triggered when the task is to be given up; leave a callback with it instead of polling.

        Returns:
            The result with its return code; TASK_ABORTED if the task was given up.
        """
