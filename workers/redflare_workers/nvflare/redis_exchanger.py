"""``RedisExchanger``: an executor of a client job of NVFlare's whose agent is reached through Redis.

It takes the place of NVFlare's ``IPCExchanger`` in ``config_fed_client.json``; server, controllers and filters stay.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

from nvflare.apis.dxo import DXO, from_shareable
from nvflare.apis.event_type import EventType
from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import FLContextKey, ReservedKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal
from redflare_broker.config.link_address import LINK_FILE, LinkAddress, load_address
from redflare_broker.config.settings import LinkSettings, load_settings
from redflare_broker.errors import RedflareError

from redflare_workers.ipc.agent_executor import AgentExecutor, AgentTask
from redflare_workers.ipc.translation import agent_id_of

from .translation import plain_data, reply_of, task_meta

#: Folder of a site's own settings, inside NVFlare's folder for such (``local``).
SITE_FOLDER: Final = "redflare"


class RedisExchanger(AgentExecutor, Executor):
    """Hands the tasks of an NVFlare job to one agent and waits for its results.

    It begins at START_RUN and says bye at END_RUN. The arguments up to ``agent_id`` are those of NVFlare's class.

    Args:
        send_task_timeout: without effect; a task stays in Redis until it is fetched or aborted.
        resend_task_interval: without effect; see ``send_task_timeout``.
        agent_connection_timeout: seconds without a heartbeat of the agent after which it counts as disconnected.
        agent_heartbeat_timeout: seconds without a heartbeat of the agent after which it is dead: the task in progress
            is aborted and the job panics; None: never.
        agent_heartbeat_interval: seconds between two heartbeats of this side; less when a timeout is shorter.
        agent_ack_timeout: without effect; the goodbye needs no answer here.
        agent_id: name of the agent at its site; None: ``agent_id`` in the job's meta, or else in ``redflare.json``.
        redis_url: as the agent's ``flare_site_url``; "": ``redis_url`` in ``redflare.json``.
        workspace_dir: folder with ``redflare.json``, ``comm_config.json`` and ``startup/`` (certificates), all of them
            optional; "": the folder ``local/redflare`` of NVFlare's site, so that each site says where its server is.
        secure_mode: ``startup/rootCA.pem`` must be there; or so says ``redflare.json``.
        settings: instead of those in the workspace.
        client: a redis-py or fakeredis client to use instead of the URL.
    """

    _dxo_of = staticmethod(from_shareable)
    _reply_of = staticmethod(reply_of)
    _make_reply = staticmethod(make_reply)

    def __init__(
        self,
        send_task_timeout: float = 5.0,
        resend_task_interval: float = 2.0,
        agent_connection_timeout: float = 60.0,
        agent_heartbeat_timeout: float | None = None,
        agent_heartbeat_interval: float = 5.0,
        agent_ack_timeout: float = 5.0,
        agent_id: str | None = None,
        redis_url: str = "",
        workspace_dir: str = "",
        secure_mode: bool = False,
        *,
        settings: LinkSettings | None = None,
        client: Any = None,
    ) -> None:
        Executor.__init__(self)
        AgentExecutor.__init__(
            self,
            agent_id=agent_id,
            site_name=None,
            job_id=None,
            redis_url=redis_url,
            agent_connection_timeout=agent_connection_timeout,
            agent_heartbeat_timeout=agent_heartbeat_timeout,
            agent_heartbeat_interval=agent_heartbeat_interval,
            settings=settings,
            client=client,
        )
        # under the names of the arguments: NVFlare's job API reads them to write a job's config
        self.send_task_timeout = send_task_timeout
        self.resend_task_interval = resend_task_interval
        self.agent_ack_timeout = agent_ack_timeout
        self.redis_url = redis_url
        self.workspace_dir = workspace_dir
        self.secure_mode = secure_mode
        self.settings = settings
        self._run_job_id = ""

    # -- life ----------------------------------------------------------------------------------------------------------

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Begin at START_RUN, and say bye at END_RUN; a start that fails makes the job panic."""
        if event_type == EventType.START_RUN:
            self._start_run(fl_ctx)
        elif event_type == EventType.ABORT_TASK:
            self._check_signal()
        elif event_type == EventType.END_RUN:
            self.stop()

    def _start_run(self, fl_ctx: FLContext) -> None:
        self._engine = fl_ctx.get_engine()
        self._run_job_id = fl_ctx.get_job_id() or ""
        try:
            folder = self._folder(fl_ctx)
            address = load_address(folder / LINK_FILE) if folder else LinkAddress()
            self._configure(folder, replace(address, secure_mode=self.secure_mode or address.secure_mode))
            self.agent_id = self.agent_id or self._agent_id(address, fl_ctx)
            self._site_name = fl_ctx.get_identity_name()
            self.start()
        except RedflareError as exc:
            self.system_panic(reason=str(exc), fl_ctx=fl_ctx)

    def _folder(self, fl_ctx: FLContext) -> Path | None:
        """Return the workspace; None if the context has none, as one without a site."""
        if self.workspace_dir:
            return Path(self.workspace_dir)
        workspace = fl_ctx.get_prop(ReservedKey.WORKSPACE_OBJECT)
        return None if workspace is None else Path(workspace.get_site_config_dir()) / SITE_FOLDER

    def _configure(self, folder: Path | None, address: LinkAddress) -> None:
        self._redis_url = self.redis_url or address.redis_url
        if self.settings is None and folder is not None:
            self._settings = load_settings(folder, address.secure_mode)

    def _agent_id(self, address: LinkAddress, fl_ctx: FLContext) -> str:
        job_meta = fl_ctx.get_prop(FLContextKey.JOB_META)
        try:
            return agent_id_of(job_meta)
        except RedflareError:
            if not address.agent_id:
                raise
            return address.agent_id

    def _check_signal(self) -> None:
        """Wake the task in progress: NVFlare's abort signal wakes nobody, but the event that follows it does."""
        if self._link is not None:
            self._link.session.nudge()

    # -- tasks ---------------------------------------------------------------------------------------------------------

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        """Hand a task to the agent and wait, without a limit, for its result.

        Returns:
            the result as a DXO's Shareable, or a reply with a return code: BAD_REQUEST_DATA when a task is in progress
            or the agent cannot read this one, BAD_TASK_DATA when there is no DXO in it or it cannot be sent,
            EXECUTION_EXCEPTION when the result is not one, TASK_ABORTED, or the agent's own.
        """
        reply: Shareable = self._run_task(task_name, shareable, fl_ctx, abort_signal)
        return reply

    def _task_of(self, dxo: DXO, shareable: Shareable) -> AgentTask:
        return AgentTask(
            task_id=shareable.get_header(ReservedKey.TASK_ID) or token_hex(16),
            meta=task_meta(dxo, shareable, self._site_name or "", self._run_job_id),
            data=plain_data(dxo),
        )
