"""The process of an agent: ``python -m redflare_workers.agent_run.agent_main``. No other module here imports the agent.

It serves one job after the other: when the CJ of a job says bye, a new agent of the same name waits for the next.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from typing import Any, Final

from redflare_agent import RC, IPCAgent, TaskResult, serve
from redflare_agent.serve import TaskFunction, function_of_task
from redflare_broker.errors import ConfigError, PreflightError, ServerError
from redflare_broker.util.inherited_signals import reset_inherited_signals
from redflare_broker.util.visible import visible

from redflare_workers.processes import ExitCode, ProcessEnding
from redflare_workers.util.log_format import log_to_stderr
from redflare_workers.util.object_reference import named

from .agent_process_args import AgentProcessArgs
from .watched_train import WatchedTrain

logger = logging.getLogger(__name__)

#: Seconds after which it is believed that there is no open task.
_NO_TASK_AFTER: Final = 3.0


def main() -> int:
    """Serve until this process should end; return the exit code."""
    reset_inherited_signals()
    log_to_stderr()
    args = AgentProcessArgs.take()
    ending = ProcessEnding(lambda reason: os._exit(ExitCode.LEFT))
    ending.watch()
    try:
        if args.giving_up:
            return _give_up(args)
        train = function_of_task(named(args.train, "MODULE:FUNCTION"), args.train)
        return _serve(args, train, ending)
    except ConfigError as error:
        print(f"redflare: {visible(str(error))}", file=sys.stderr)
        return ExitCode.CONFIG
    except (PreflightError, ServerError) as error:
        print(f"redflare: {visible(str(error))}", file=sys.stderr)
        return ExitCode.INFRASTRUCTURE
    finally:
        ending.finish()


def _serve(args: AgentProcessArgs, train: TaskFunction, ending: ProcessEnding) -> int:
    watched = WatchedTrain(train, abort_grace=args.abort_grace, stop_grace=args.stop_grace)
    stopping = threading.Lock()
    announced = False
    while not ending.reason:
        agent = _agent(args)

        def stop(_reason: str, agent: IPCAgent = agent) -> None:
            with stopping:
                watched.stop()
                if not agent.closed:
                    agent.stop()

        with agent:
            ending.attach(stop)
            if not announced:
                announced = True
                print(f"redflare: ready: agent {agent.fqcn} waits for tasks", file=sys.stderr)
            count = serve(watched, agent)
            # another thread may be in the middle of agent.stop
            with stopping:
                pass
        logger.info("agent %s was closed; %d results were accepted", agent.fqcn, count)
        if agent.fenced:
            print(f"redflare: another agent {agent.fqcn} has taken over: this one ends", file=sys.stderr)
            return ExitCode.REPLACED
        if args.job_id is not None:
            break
    watched.close()
    return ExitCode.LEFT


def _agent(args: AgentProcessArgs, **more: Any) -> IPCAgent:
    job_id, last_exit = args.job_id, args.last_exit
    return IPCAgent(
        args.url, args.site, args.agent_id, args.workspace, args.secure, job_id=job_id, last_exit=last_exit, **more
    )


def _give_up(args: AgentProcessArgs) -> int:
    """Answer the open task, if there is one, for an agent that is not started any more."""
    why = f"the process of agent {args.agent_id} of {args.site} dies each time, and is not started again"
    with _agent(args, submit_result_timeout=_NO_TASK_AFTER) as agent:
        agent.submit_result(
            TaskResult({"exception": f"{why}; the last one: {args.last_exit}"}, None, RC.EXECUTION_EXCEPTION)
        )
    return ExitCode.LEFT


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # threads of the trainer may hold up an ordinary exit
    os._exit(code)
