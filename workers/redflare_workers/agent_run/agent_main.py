"""The process of an agent: ``python -m redflare_workers.agent_run.agent_main``. No other module here imports the agent.

It serves one job after the other: when the CJ of a job says bye, a new agent of the same name waits for the next.
"""

from __future__ import annotations

import logging
import os
import sys
import threading

from redflare_agent import IPCAgent, serve
from redflare_agent.serve import TaskFunction, function_of_task
from redflare_broker.errors import ConfigError, PreflightError, ServerError
from redflare_broker.util.visible import visible

from redflare_workers.processes import Ending, ExitCode
from redflare_workers.util.log_format import log_to_stderr
from redflare_workers.util.object_reference import named

from .agent_process_args import AgentProcessArgs
from .watched_train import WatchedTrain

logger = logging.getLogger(__name__)


def main() -> int:
    """Serve until this process should end; return the exit code."""
    log_to_stderr()
    args = AgentProcessArgs.take()
    ending = Ending(lambda reason: os._exit(ExitCode.SUCCESS))
    ending.watch()
    try:
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


def _serve(args: AgentProcessArgs, train: TaskFunction, ending: Ending) -> int:
    watched = WatchedTrain(train, abort_grace=args.abort_grace, stop_grace=args.stop_grace)
    stopping = threading.Lock()
    while not ending.reason:
        agent = IPCAgent(args.url, args.site, args.agent_id, args.workspace, args.secure, job_id=args.job_id)

        def stop(_reason: str, agent: IPCAgent = agent) -> None:
            with stopping:
                watched.stop()
                if not agent.closed:
                    agent.stop()

        with agent:
            ending.attach(stop)
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
    return ExitCode.SUCCESS


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # threads of the trainer may hold up an ordinary exit
    os._exit(code)
