"""The link of one agent and its CJ in a soak, whose processes are killed and replaced."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from redflare_broker.config.settings import LinkSettings

from tests.chaos.soak_outcome import Execution, SoakOutcome
from tests.programs import agent as agent_program
from tests.programs import cj as cj_program
from tests.programs.agent import AgentArgs
from tests.programs.cj import CJArgs
from tests.support.process.child import Child

_numbers = itertools.count()


class SoakLink:
    """Runs its tasks one after the other, while faults hit its processes."""

    def __init__(
        self,
        number: int,
        task_ids: list[str],
        urls: tuple[str, str],
        settings: LinkSettings,
        folder: Path,
        outcome: SoakOutcome,
    ) -> None:
        self.name = f"agent-{number}"
        self.task_ids = task_ids
        self.done = 0
        self._agent_url, self._cj_url = urls
        self._settings = settings
        self._folder = folder
        self._outcome = outcome
        #: the last task that each agent has taken
        self._executions: dict[Child, tuple[str, Execution]] = {}
        #: agents that were not killed, stopped, or closed by another
        self._running: set[Child] = set()
        #: the fault for which each agent was replaced
        self._faults: dict[Child, str] = {}
        #: processes that were replaced and have not exited yet
        self._replaced: list[Child] = []
        self.agent = self._start_agent()
        self.cj = self._start_cj()

    # -- processes -----------------------------------------------------------------------------------------------------

    @property
    def children(self) -> list[Child]:
        return [self.agent, self.cj, *self._replaced]

    @property
    def finished(self) -> bool:
        return self.done == len(self.task_ids)

    def _start_agent(self) -> Child:
        args = AgentArgs(
            url=self._agent_url, settings=self._settings, site="soak", agent_id=self.name, work=0.02, sign=True
        )
        child = Child(agent_program.main, args, self._folder / f"{next(_numbers)}-{self.name}.log")
        child.send("serve")
        self._running.add(child)
        return child

    def _start_cj(self) -> Child:
        args = CJArgs(url=self._cj_url, settings=self._settings, site="soak", agent_ids=(self.name,))
        child = Child(cj_program.main, args, self._folder / f"{next(_numbers)}-cj-of-{self.name}.log")
        self._ask(child)
        return child

    def _ask(self, cj: Child) -> None:
        if not self.finished:
            # every tenth payload is too large for its entry
            cj.send("run_array", self.task_ids[self.done], 40_000 if self.done % 10 == 9 else 4, self.name)

    # -- faults --------------------------------------------------------------------------------------------------------

    def kill_agent(self) -> None:
        self._note_fault(self.agent, "kill agent")
        self._running.discard(self.agent)
        self.agent.kill()
        self._replace_agent()

    def stop_agent(self) -> None:
        self._note_fault(self.agent, "stop agent")
        self._running.discard(self.agent)
        self.agent.signal(signal.SIGCONT)
        self.agent.send("end")
        self._replace_agent()

    def replace_agent(self) -> None:
        self._note_fault(self.agent, "replace agent")
        self._replace_agent()

    def _replace_agent(self) -> None:
        self._replaced.append(self.agent)
        self.agent = self._start_agent()

    def kill_cj(self) -> None:
        self.cj.kill()
        self._replaced.append(self.cj)
        self.drain(self.cj)
        self.cj = self._start_cj()

    def freeze_agent(self) -> Callable[[], None]:
        """Stop the agent; return the function that resumes it. No other agent has a reason to take its task."""
        return _freeze(self.agent)

    def freeze_cj(self) -> Callable[[], None]:
        return _freeze(self.cj)

    def replace_cj(self) -> None:
        self.drain(self.cj)
        self._replaced.append(self.cj)
        self.cj = self._start_cj()

    def abort_task(self) -> None:
        if not self.finished:
            # the abort may hit the next task
            self._outcome.abort_requested.update(self.task_ids[self.done : self.done + 2])
            self.cj.send("abort", self.name)

    def _note_fault(self, agent: Child, kind: str) -> None:
        self._faults[agent] = kind
        self.drain(agent)
        if execution := self._executions.get(agent):
            execution[1].fault = kind

    # -- messages of the processes -------------------------------------------------------------------------------------

    def drain(self, child: Child) -> int:
        """Process all messages of a child; return how many tasks have ended."""
        before = self.done
        alive = child.alive
        while (message := child.next_message()) is not None:
            self._note(child, *message)
        if not alive and child in self._replaced:
            self._replaced.remove(child)
            child.close()
        elif not alive:
            self._outcome.broken.append(f"{child} of {self.name} has exited by itself:\n{child.log_tail()}")
        return self.done - before

    def _note(self, child: Child, kind: str, *values: Any) -> None:
        match kind:
            case "task":
                task_id, attempt = values
                execution = Execution(by=f"{child.pid}:{attempt}", attempt=attempt, fault=self._faults.get(child, ""))
                self._executions[child] = (task_id, execution)
                self._outcome.executions[task_id].append(execution)
            case "submitted" if values[0]:
                task_id, execution = self._executions[child]
                self._outcome.submitted[task_id].append(execution.by)
            case "closed":
                self._closed(child, values[0])
            case "result":
                task_id, by = values
                self._outcome.results[task_id].append(by)
                self._ended(child, task_id)
            case "failed":
                task_id, error, reason = values
                if child is self.cj or "taken over" not in reason:
                    self._failed(child, task_id, f"{error}: {reason}")

    def _closed(self, agent: Child, reason: str) -> None:
        agent.dismiss()
        self._running.discard(agent)
        if agent is not self.agent:
            return
        if not self._running:
            self._outcome.broken.append(f"{agent} of {self.name} was closed: {reason}")
            return
        # when the cable was cut, the process that was started first may be the last to send hello
        self._replaced.append(agent)
        self._faults[agent] = "replace agent"
        self.agent = self._running.pop()
        self._running.add(self.agent)
        self._replaced.remove(self.agent)
        self._faults.pop(self.agent, None)

    def _failed(self, child: Child, task_id: str, reason: str) -> None:
        if "abort" in reason or "the test says so" in reason:
            self._outcome.aborted.add(task_id)
        else:
            self._outcome.broken.append(f"{task_id} failed: {reason}")
        self._ended(child, task_id)

    def _ended(self, child: Child, task_id: str) -> None:
        if not self.finished and self.task_ids[self.done] == task_id:
            self.done += 1
        if child is self.cj and child not in self._replaced:
            self._ask(child)

    def close(self) -> None:
        """Kill all processes."""
        for child in self.children:
            child.close()


def _freeze(child: Child) -> Callable[[], None]:
    child.signal(signal.SIGSTOP)
    return lambda: child.signal(signal.SIGCONT) if child.alive else None
