"""``APIContext``: an agent behind ``receive`` and ``send``; the functions of ``flare`` call it."""

from __future__ import annotations

import logging
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final, Self

from redflare_broker.config.link_address import LINK_FILE, LinkAddress, load_address
from redflare_broker.errors import ConfigError

from .defs import Task
from .errors import AgentClosed
from .fl_model import FLModel, ModelLike, model_of, result_of
from .ipc_agent import IPCAgent

logger = logging.getLogger(__name__)

TRAIN_TASK: Final = "train"
EVALUATE_TASK: Final = "validate"
SUBMIT_MODEL_TASK: Final = "submit_model"
#: The one process of a distributed training that has the link.
CONTROL_RANK: Final = "0"


def find_address(config_file: str | Path | None, arguments: dict[str, Any]) -> tuple[LinkAddress, Path]:
    """Return what arguments and the link file say of a link, and the file; an argument wins over the file.

    Args:
        config_file: the link file; None: ``redflare.json`` in the workspace, or in the current folder.
        arguments: of ``flare.init``; None: not given.

    Raises:
        ConfigError: a ValueError; the file is wrong, or not there although it was named.
    """
    file = Path(config_file) if config_file else Path(arguments.get("workspace_dir") or ".") / LINK_FILE
    if config_file and not file.is_file():
        raise ConfigError(f"there is no file {file}; config_file names the {LINK_FILE} of this trainer's link")
    values = {item.name: arguments.get(item.name) for item in fields(LinkAddress)}
    named = {name: value for name, value in values.items() if value is not None}
    return replace(load_address(file), **named), file


def open_agent(config_file: str | Path | None, arguments: dict[str, Any]) -> tuple[IPCAgent, LinkAddress]:
    """Make the agent that arguments and the link file name; an argument wins over the file.

    Args:
        config_file: the link file; its folder is the workspace unless ``workspace_dir`` is given.
        arguments: those of ``IPCAgent``, with ``redis_url`` and ``site_name`` for its two first; None: not given.

    Raises:
        ConfigError: a ValueError; a name or the URL is missing or wrong; the message names the file.
    """
    address, file = find_address(config_file, arguments)
    names = {item.name for item in fields(LinkAddress)}
    given = {name: value for name, value in arguments.items() if value is not None and name not in names}
    missing = [
        name
        for name in ("redis_url", "site_name", "agent_id")
        if not getattr(address, name) and not (name == "redis_url" and "client" in given)
    ]
    if missing:
        raise ConfigError(f"{', '.join(missing)}: neither an argument of init nor in {file.absolute()}")
    agent = IPCAgent(
        address.redis_url,
        address.site_name,
        address.agent_id,
        given.pop("workspace_dir", file.parent),
        address.secure_mode,
        job_id=address.job_id or None,
        **given,
    )
    return agent, address


class APIContext:
    """One agent as a source of models.

    Args:
        agent: started by the context, and stopped at its end; None: this process has no link, as all ranks but 0 of a
            distributed training: ``receive`` gives None, ``send`` has no effect.
        address: the values that ``get_config`` and ``system_info`` return.
    """

    def __init__(self, agent: IPCAgent | None, address: LinkAddress | None = None) -> None:
        self._agent = agent
        self._address = address or LinkAddress()
        #: The task whose model was received last; ``aborted`` is set when its result is not wanted any more.
        self.task: Task | None = None
        #: the task that is to be answered; its model, until it is forgotten; and whether the script has got it
        self._open: Task | None = None
        self._model: FLModel | None = None
        self._received = False
        self._ended = agent is None
        if agent is not None:
            agent.start()

    # -- models --------------------------------------------------------------------------------------------------------

    def receive(self, timeout: float | None = None) -> FLModel | None:
        """Return the model of the current task; wait for a task if none is in hand.

        Args:
            timeout: seconds; None: no limit.

        Returns:
            None on timeout, or when the job has ended.
        """
        model = self._next(timeout)
        self._received = self._received or model is not None
        return model

    def _next(self, timeout: float | None) -> FLModel | None:
        if self._open is not None and (self._open.aborted or self._agent is None or self._agent.closed):
            self._forget()
        if self._open is None and not self._ended and self._agent is not None:
            try:
                self._open = self._agent.get_task(timeout)
            except AgentClosed as exc:
                logger.info("no more models: %s", exc)
                self._ended = True
        if self._open is not None and self._model is None:
            self.task, self._model = self._open, model_of(self._open)
        return self._model

    def _forget(self) -> None:
        self._open, self._model, self._received = None, None, False

    def send(self, model: ModelLike, clear_cache: bool = True) -> None:
        """Answer the current task with a model, and wait until the CJ has it.

        Args:
            clear_cache: drop the params of this model and of the received one, so that their memory is free.

        Raises:
            RuntimeError: nothing was received, the model is empty, or the result was rejected.
            AgentClosed: a newer instance of this agent has taken over.
        """
        if self._agent is None or self._ended:
            return
        task, received = self._open, self._model
        if not self._received or task is None:
            raise RuntimeError("receive() comes before send(): there is no task to answer")
        if not self._agent.submit_result(result_of(model)):
            if not task.aborted and not self._agent.closed:
                self._forget()
                raise RuntimeError(f"the result of task {task} was rejected; the log says why")
            logger.warning("task %s was aborted: its model is dropped", task)
        self._forget()
        if clear_cache:
            for spent in (model, received):
                if spent is not None:
                    spent.params = spent.optimizer_params = None

    def is_running(self) -> bool:
        """Wait for a model; False when the job has ended."""
        return self._next(None) is not None

    def clear(self) -> None:
        """Forget the received model; the next ``receive`` makes it anew from the task in hand."""
        self._model, self._received = None, False

    # -- the task and the link -----------------------------------------------------------------------------------------

    def get_task_name(self) -> str:
        """Name of the task whose model was received last.

        Raises:
            RuntimeError: nothing was received yet, or this process has no link.
        """
        if self.task is None:
            raise RuntimeError("no task was received yet; call receive() first, in the process of rank 0")
        return self.task.task_name

    def system_info(self) -> dict[str, Any]:
        """``job_id`` and ``site_name`` from the last task's meta, or else from the address of the link."""
        meta = {} if self.task is None else self.task.meta
        return {name: meta.get(name, getattr(self._address, name)) for name in ("job_id", "site_name")}

    def get_config(self) -> dict[str, Any]:
        """Return the keys of ``redflare.json``, without the URL, which may hold a password."""
        names = ("site_name", "agent_id", "job_id", "secure_mode")
        return {name: getattr(self._address, name) for name in names}

    def shutdown(self, *, failed: bool = False) -> None:
        """Stop the agent; a second call has no effect. ``failed``: this program ends by a fault."""
        agent, self._agent, self._ended = self._agent, None, True
        if agent is not None:
            agent.fail() if failed else agent.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.shutdown()

    def __repr__(self) -> str:
        return f"<APIContext {self._address.site_name}/{self._address.agent_id}, task {self.task}>"
