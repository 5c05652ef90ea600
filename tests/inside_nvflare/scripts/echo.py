"""A trainer that returns its data; for NVFlare's IPCAgent, or with other imports for another one.

Arguments: URL, site, agent, workspace.
"""

import os
import sys

from nvflare.client.ipc.defs import AgentClosed, TaskResult
from nvflare.client.ipc.ipc_agent import IPCAgent

agent = IPCAgent(*sys.argv[1:5])
agent.start()
try:
    while True:
        task = agent.get_task()
        agent.submit_result(TaskResult({"pid": os.getpid()}, task.data))
except AgentClosed:
    agent.stop()
