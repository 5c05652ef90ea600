"""From a function to a running agent: it is called for each task until the agent is closed.

The function is ``train(task) -> TaskResult``, or ``train(task, site)`` if it wants the name of its site beside the
task.
"""

from __future__ import annotations

import functools
import inspect
import logging
import traceback
from collections.abc import Callable
from typing import Any, Final

from redflare_broker.errors import ConfigError, EncodeError
from redflare_broker.util.plain_function import why_not_plain

from .defs import RC, FlareAgent, Task, TaskResult
from .errors import AgentClosed
from .ipc_agent import IPCAgent

logger = logging.getLogger(__name__)

TaskFunction = Callable[[Task], TaskResult]
#: ``train(task)`` or ``train(task, site)``
Train = Callable[..., TaskResult]

#: Keys of a result's meta that describe an exception of the trainer.
META_EXCEPTION: Final = "exception"
META_TRACEBACK: Final = "traceback"
_EXPECTED: Final = "a function train(task) or train(task, site)"
#: Characters of a value that an error shows.
_LONGEST: Final = 40


def serve(train: Train, agent: FlareAgent) -> int:
    """Answer the tasks of a started agent with ``train`` until the agent is closed.

    An exception of ``train`` ends its task with EXECUTION_EXCEPTION and the traceback in the result's meta, and the
    next task is taken. The result of a task that was aborted meanwhile is dropped.

    Returns:
        the number of accepted results.

    Raises:
        ConfigError: ``train`` cannot be called with a task, nor with a task and a site.
    """
    function = function_of_task(train)
    accepted = 0
    for task in agent.tasks():
        result = answer(function, task)
        if task.aborted:
            continue
        try:
            try:
                accepted += agent.submit_result(result)
            except EncodeError as exc:
                accepted += agent.submit_result(_failure(exc))
        except AgentClosed:
            break
    return accepted


def function_of_task(train: Train, name: str = "") -> TaskFunction:
    """Return ``train`` as a function of a task alone; the task's site is passed to one that has a place for it.

    That is a parameter called ``site``, or a second one without a default.

    Args:
        name: of the function, in errors; "": its own.

    Raises:
        ConfigError: it is no function, has another signature, or would not run when it is called.
    """
    if not callable(train):
        raise ConfigError(f"{name or 'train'} must be {_EXPECTED}, but is a {type(train).__name__}")
    if inspect.isclass(train):
        raise ConfigError(f"{name or train.__name__} must be {_EXPECTED}, but is a class: give an object of it instead")
    if why := why_not_plain(train):
        raise ConfigError(f"{name or _name_of(train)} must be {_EXPECTED}, but is {why}")
    try:
        signature = inspect.signature(train)
    except ValueError:  # a function in C that does not tell
        return train
    if "site" not in signature.parameters and _accepts(signature, "task"):
        return train
    called_by_name = _accepts(signature, "task", site="site")
    if not called_by_name and not _accepts(signature, "task", "site"):
        raise ConfigError(f"{name or _name_of(train)} must be {_EXPECTED}, but its signature is {signature}")

    @functools.wraps(train)
    def with_site(task: Task) -> TaskResult:
        return train(task, site=task.site) if called_by_name else train(task, task.site)

    with_site.__name__ = _name_of(train)
    # the one of the function that it wraps would be found otherwise
    with_site.__signature__ = inspect.Signature(list(signature.parameters.values())[:1])  # type: ignore[attr-defined]
    return with_site


def _accepts(signature: inspect.Signature, *args: str, **kwargs: str) -> bool:
    try:
        signature.bind(*args, **kwargs)
    except TypeError:
        return False
    return True


def answer(train: TaskFunction, task: Task) -> TaskResult:
    """Call ``train`` with a task; its exceptions, ``sys.exit()`` too, become a result with EXECUTION_EXCEPTION."""
    try:
        result = train(task)
        if not isinstance(result, TaskResult):
            raise TypeError(f"{_name_of(train)}() must return a TaskResult, but returned {_described(result)}")
    except (Exception, SystemExit) as exc:
        logger.exception("task %s failed in the trainer", task)
        return _failure(exc)
    return result


def _name_of(train: Any) -> str:
    """Return the name by which its author knows a function, also behind ``functools.partial`` or as an object."""
    while isinstance(train, functools.partial):
        train = train.func
    return str(getattr(train, "__name__", type(train).__name__))


def _described(result: object) -> str:
    """``int (42)``; ``dict`` of what is too long to show."""
    shown = repr(result) if isinstance(result, str | int | float | bool) or result is None else ""
    kind = type(result).__name__
    return f"{kind} ({shown})" if shown and len(shown) <= _LONGEST else kind


def _failure(exc: Exception | SystemExit) -> TaskResult:
    text = "".join(traceback.format_exception(exc))
    # text of foreign exceptions may hold characters that cannot be sent
    clean = text.encode("utf-8", "replace").decode("utf-8")
    name = f"{type(exc).__name__}: {exc}".encode("utf-8", "replace").decode("utf-8")
    return TaskResult({META_EXCEPTION: name, META_TRACEBACK: clean}, None, RC.EXECUTION_EXCEPTION)


def trainer(**agent_args: Any) -> Callable[[Train], Trainer]:
    """Decorate a function of a task so that it can run as an agent. The arguments are those of ``IPCAgent``.

    The function stays callable, for tests; ``.run()`` serves tasks until the agent is closed::

        @trainer(flare_site_url="redis://localhost", flare_site_name="site-1", agent_id="a", workspace_dir=".")
        def train(task):
            return TaskResult({}, fit(task.data))

        train.run()
    """
    return lambda train: Trainer(train, agent_args)


class Trainer:
    """A function and the agent it becomes with ``run``."""

    def __init__(self, train: Train, agent_args: dict[str, Any]) -> None:
        self._function = function_of_task(train)
        self._train = train
        self._agent_args = agent_args
        functools.update_wrapper(self, train)

    def __call__(self, *args: Any, **kwargs: Any) -> TaskResult:
        return self._train(*args, **kwargs)

    def run(self) -> int:
        """Start an agent and serve tasks until it is closed; return the number of accepted results."""
        with IPCAgent(**self._agent_args) as agent:
            return serve(self._function, agent)

    def __repr__(self) -> str:
        return f"<Trainer {getattr(self._train, '__name__', self._train)!r}>"
