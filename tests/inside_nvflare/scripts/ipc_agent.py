"""A trainer written for NVFlare's IPCAgent; the two imports are all that another package's agent changes.

Arguments: URL, site, agent, workspace, and the round in which it waits until its task is aborted, if there is one.
"""

import sys
import time

from learning import train
from nvflare.client.ipc.defs import AgentClosed, TaskResult
from nvflare.client.ipc.ipc_agent import IPCAgent


def result(task, site, wait_in):
    current_round = task.meta["current_round"]
    print(task.task_name, current_round, task.meta["total_round"], task.meta["data_kind"], flush=True)
    while current_round == wait_in and not task.aborted:
        time.sleep(0.05)
    if task.aborted:
        print("aborted", flush=True)
    meta = {"NUM_STEPS_CURRENT_ROUND": 10 if site == "site-1" else 30, "data_kind": "WEIGHTS"}
    return TaskResult(meta, train(task.data, site, current_round))


def main(url, site, agent_id, workspace, wait_in=-1):
    agent = IPCAgent(url, site, agent_id, workspace)
    agent.start()
    try:
        while True:
            task = agent.get_task()
            print("accepted", agent.submit_result(result(task, site, int(wait_in))), flush=True)
    except AgentClosed:
        print("closed", flush=True)
    agent.stop()


main(*sys.argv[1:])
