"""``Executor``: the component of a client job that carries out tasks. After NVFlare's ``Executor``."""

from __future__ import annotations

from abc import ABC, abstractmethod

from .fl_component import FLComponent
from .fl_context import FLContext
from .shareable import Shareable
from .signal import Signal


class Executor(FLComponent, ABC):
    """Carries out the tasks a client job pulls."""

    #: Whether it forwards data undecoded: the DXO of a task may hold an ``EncodedPayload`` instead of the tree itself,
    #: and so may the DXO of its reply. Any other executor gets the decoded tree from the client job.
    accepts_encoded: bool = False

    def __init__(self) -> None:
        super().__init__()
        #: Set to True if the task must not be carried out here; the job is then treated as unsafe.
        self.unsafe = False

    @abstractmethod
    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        """Carry out one task.

        Args:
            shareable: the task's data, as a rule a DXO.
            abort_signal: triggered when the task is aborted; add a callback to it instead of polling.

        Returns:
            The result with its return code; TASK_ABORTED if the task was aborted.
        """
