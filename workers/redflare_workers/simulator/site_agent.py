"""The agent of a simulated site: serves a user's function in a thread.

No other module here imports ``redflare_agent``.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Self

from redflare_agent import IPCAgent, serve
from redflare_agent.serve import function_of_task
from redflare_broker.config.settings import LinkSettings

if TYPE_CHECKING:
    from redflare_agent.serve import Train

logger = logging.getLogger(__name__)

#: Id of all agents.
AGENT_ID: Final = "simulated"

#: Seconds in which a function must return when its site ends.
_GRACE: Final = 3.0


class SiteAgent:
    """Takes a site's tasks and answers them with ``train``; a context manager.

    ``on_end`` is called with the reason when the agent ends before it is stopped.
    """

    def __init__(
        self, train: Train, site: str, url: str, job_id: str, settings: LinkSettings, on_end: Callable[[str], None]
    ) -> None:
        self.site = site
        self._train = train
        self._agent = IPCAgent(url, site, AGENT_ID, ".", job_id=job_id, settings=settings)
        self._on_end = on_end
        self._stopping = False
        self._thread = threading.Thread(target=self._serve, name=f"redflare-agent-{site}", daemon=True)

    def __enter__(self) -> Self:
        self._agent.start()
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopping = True
        self._agent.stop()
        self._thread.join(_GRACE)

    @property
    def busy(self) -> bool:
        """Whether the function has not returned yet."""
        return self._thread.is_alive()

    def _serve(self) -> None:
        try:
            serve(self._train, self._agent)
        except BaseException as error:  # it would end only this thread, and its site would wait for ever
            logger.exception("%s: its agent failed", self.site)
            reason = f"{type(error).__name__}: {error}"
        else:
            reason = "its agent was closed"
        if not self._stopping:
            self._on_end(f"{self.site}: {reason}")


def check_train(train: Train, name: str = "") -> None:
    """Check that a function can be called with a task, or with a task and a site; ``name``: its name in errors.

    Raises:
        ConfigError: it cannot.
    """
    function_of_task(train, name)
