"""The link inside a real NVFlare job: an executor of NVFlare's, in place of its ``IPCExchanger``.

Start at: ``redis_exchanger.RedisExchanger``.

It needs ``pip install '.[nvflare]'``; the agent's side does not.

May import: ipc, apis, the root and the broker.
"""

from .redis_exchanger import RedisExchanger

__all__ = ["RedisExchanger"]
