"""A trainer for large models: adds one. Arguments: URL, site, agent, workspace."""

import sys

from redflare_agent import IPCAgent, Task, TaskResult, serve


def train(task: Task) -> TaskResult:
    return TaskResult({"data_kind": "WEIGHTS"}, {name: weights + 1 for name, weights in task.data.items()})


if __name__ == "__main__":
    with IPCAgent(*sys.argv[1:5]) as agent:
        print("accepted", serve(train, agent), flush=True)
