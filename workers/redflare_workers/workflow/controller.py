"""``Controller``: base of all workflows, after NVFlare's class of this name; and the check of their counts."""

from __future__ import annotations

from abc import ABC
from typing import Any

from redflare_workers.apis.controller_spec import ControllerSpec
from redflare_workers.apis.fl_component import FLComponent
from redflare_workers.apis.fl_context import FLContext
from redflare_workers.apis.wf_comm_spec import WFCommSpec


class Controller(FLComponent, ControllerSpec, ABC):
    """Implement ``start_controller``, ``control_flow`` and ``stop_controller``; schedule tasks with the methods here.

    One that can be resumed (``resume=True``) also has ``state`` and ``restore``, and calls ``checkpoint`` where a
    restarted server should resume.

    Args:
        task_check_period: longest time in seconds between two checks of all open tasks by the communicator.
        resume: after a restart of the server, resume from the last checkpoint.
    """

    def __init__(self, task_check_period: float = 0.2, *, resume: bool = False) -> None:
        super().__init__()
        self._task_check_period = task_check_period
        self.resume = resume
        self.communicator: WFCommSpec | None = None
        #: The engine of the run, set by ``initialize``. Controllers written for NVFlare call it ``_engine``.
        self.engine: Any = None
        self._engine: Any = None

    # -- the run -------------------------------------------------------------------------------------------------------

    def set_communicator(self, communicator: WFCommSpec) -> None:
        """Schedule through this communicator; it takes over this controller's ``task_check_period``.

        Raises:
            TypeError: it is not a WFCommSpec.
        """
        if not isinstance(communicator, WFCommSpec):
            raise TypeError(f"communicator must be a WFCommSpec, but is a {type(communicator).__name__}")
        self.communicator = communicator
        communicator.controller = self
        communicator.task_check_period = self._task_check_period

    def initialize(self, fl_ctx: FLContext) -> None:
        """Note the engine and start the controller; without an engine in the context, panic."""
        engine = fl_ctx.get_engine()
        if engine is None:
            self.system_panic(f"{self.name} needs an engine, and the context has none", fl_ctx)
            return
        self.engine = self._engine = engine
        self.start_controller(fl_ctx)

    # -- resuming ------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return all that ``restore`` needs to resume here: a dict of plain values and arrays."""
        raise NotImplementedError(f"{self.name} has no state(): write state() and restore(), or do without resume=True")

    def restore(self, state: dict[str, Any]) -> None:
        """Resume from a state that ``state`` returned; called before ``start_controller``."""
        raise NotImplementedError(
            f"{self.name} has no restore(): write state() and restore(), or do without resume=True"
        )

    def appended(self, start: int) -> list[Any]:
        """Return the history from its entry number ``start`` on: JSON values, to which each step only appends.

        A checkpoint stores the new ones, so it does not grow with the number of rounds as a ``state`` would that holds
        them all.
        """
        return []

    def restore_appended(self, history: list[Any]) -> None:
        """Take the entries of ``appended`` at the checkpoint; called before ``restore`` if there are any."""

    def checkpoint(self, fl_ctx: FLContext) -> None:
        """Store the current state.

        Without ``resume``, and once the job is left to another server, this has no effect.
        """
        if self.resume:
            keep = getattr(self._comm, "checkpoint", None)
            if keep is None:
                raise NotImplementedError(
                    f"{type(self._comm).__name__} cannot keep checkpoints: do without resume=True"
                )
            keep(self.state(), self.appended)

    # -- scheduling ----------------------------------------------------------------------------------------------------

    @property
    def _comm(self) -> WFCommSpec:
        if self.communicator is None:
            raise RuntimeError(f"{self.name} has no communicator; call set_communicator() first")
        return self.communicator

    def get_client_disconnect_time(self, client_name: str) -> float | None:
        return None if self.communicator is None else self.communicator.get_client_disconnect_time(client_name)


def check_count(name: str, value: int, least: int = 0) -> int:
    """Return a whole number of at least ``least``.

    Raises:
        TypeError: it is no int.
        ValueError: it is too small.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, but is {value!r} ({type(value).__name__})")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, but is {value}")
    return value
