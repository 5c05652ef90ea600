"""``RedisExchanger``: an executor of a client job of NVFlare's whose agent is reached through Redis.

It takes the place of NVFlare's ``IPCExchanger`` in ``config_fed_client.json``; server, controllers and filters stay.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from nvflare.apis.dxo import DXO, from_shareable
from nvflare.apis.event_type import EventType
from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import FLContextKey, FLMetaKey, ReservedKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.app_common.app_constant import AppConstants
from redflare_broker.config.link_address import LINK_FILE, LinkAddress, load_address
from redflare_broker.config.settings import LinkSettings, load_settings
from redflare_broker.errors import RedflareError

from redflare_workers.ipc.agent_executor import AgentExecutor
from redflare_workers.ipc.translation import ROUNDS, agent_id_of, task_meta

#: Folder of a site's own settings, inside NVFlare's folder for such (``local``).
SITE_FOLDER: Final = "redflare"
_HEADERS: Final = {
    **ROUNDS,
    FLMetaKey.START_ROUND: AppConstants.START_ROUND,
    FLMetaKey.VALIDATE_TYPE: AppConstants.VALIDATE_TYPE,
}


class RedisExchanger(AgentExecutor, Executor):
    """Hands the tasks of an NVFlare job to one agent and waits for its results.

    It begins at START_RUN and says bye at END_RUN. The arguments up to ``agent_id`` are those of NVFlare's class.

    Args:
        send_task_timeout, resend_task_interval, agent_ack_timeout: without effect.
        agent_connection_timeout, agent_heartbeat_timeout, agent_heartbeat_interval: as our ``IPCExchanger``'s.
        agent_id: name of the agent at its site; None: ``agent_id`` in the job's meta, or else in ``redflare.json``.
        redis_url: as the agent's ``flare_site_url``; "": ``redis_url`` in ``redflare.json``.
        workspace_dir: folder with ``redflare.json``, ``comm_config.json`` and ``startup/`` (certificates), all of them
            optional; "": the folder ``local/redflare`` of NVFlare's site, so that each site says where its Redis is.
        secure_mode: ``startup/rootCA.pem`` must be there; or so says ``redflare.json``.
        settings: instead of those in the workspace.
        client: a redis-py or fakeredis client to use instead of the URL.
    """

    _dxo_of = staticmethod(from_shareable)
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

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Handle an event as the base does; at ABORT_TASK also wake the task in progress.

        NVFlare's abort signal wakes nobody, but this event follows it.
        """
        if event_type == EventType.ABORT_TASK and self._link is not None:
            self._link.session.nudge()
        super().handle_event(event_type, fl_ctx)

    def _prepare(self, fl_ctx: FLContext) -> None:
        self._run_job_id = fl_ctx.get_job_id() or ""
        folder = self._folder(fl_ctx)
        address = load_address(folder / LINK_FILE) if folder else LinkAddress()
        self._redis_url = self.redis_url or address.redis_url
        if self.settings is None and folder is not None:
            self._settings = load_settings(folder, self.secure_mode or address.secure_mode)
        try:
            self.agent_id = self.agent_id or agent_id_of(fl_ctx.get_prop(FLContextKey.JOB_META))
        except RedflareError:
            if not address.agent_id:
                raise
            self.agent_id = address.agent_id
        self._site_name = fl_ctx.get_identity_name()

    def _folder(self, fl_ctx: FLContext) -> Path | None:
        """Return the workspace; None if the context has none, as one without a site."""
        if self.workspace_dir:
            return Path(self.workspace_dir)
        workspace = fl_ctx.get_prop(ReservedKey.WORKSPACE_OBJECT)
        return None if workspace is None else Path(workspace.get_site_config_dir()) / SITE_FOLDER

    def _meta_of(self, dxo: DXO, shareable: Shareable) -> dict[str, Any]:
        whose = {FLMetaKey.SITE_NAME: self._site_name or "", FLMetaKey.JOB_ID: self._run_job_id}
        return {**whose, **task_meta(dxo, shareable, _HEADERS)}
