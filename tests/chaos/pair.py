"""One agent and its CJ in a soak, whichever processes stand for them at the moment."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from redflare_broker.config.settings import LinkSettings

from tests.chaos.tally import Tally, Work
from tests.programs import agent as agent_program
from tests.programs import cj as cj_program
from tests.programs.agent import AgentArgs
from tests.programs.cj import CJArgs
from tests.support.process.child import Child

_numbers = itertools.count()


class Pair:
    """Runs its tasks one after the other, whatever happens to its processes."""

    def __init__(
        self,
        number: int,
        task_ids: list[str],
        urls: tuple[str, str],
        settings: LinkSettings,
        folder: Path,
        tally: Tally,
    ) -> None:
        self.name = f"agent-{number}"
        self.task_ids = task_ids
        self.done = 0
        self._agent_url, self._cj_url = urls
        self._settings = settings
        self._folder = folder
        self._tally = tally
        #: what each agent has, or had last
        self._works: dict[Child, tuple[str, Work]] = {}
        #: agents that were neither killed nor stopped, nor closed by another
        self._live: set[Child] = set()
        #: the fault that hit each agent that was replaced
        self._fates: dict[Child, str] = {}
        #: those that were replaced and have not ended yet
        self._former: list[Child] = []
        self.agent = self._start_agent()
        self.cj = self._start_cj()

    # -- processes -----------------------------------------------------------------------------------------------------

    @property
    def children(self) -> list[Child]:
        return [self.agent, self.cj, *self._former]

    @property
    def finished(self) -> bool:
        return self.done == len(self.task_ids)

    def _start_agent(self) -> Child:
        args = AgentArgs(
            url=self._agent_url, settings=self._settings, site="soak", agent_id=self.name, work=0.02, sign=True
        )
        child = Child(agent_program.main, args, self._folder / f"{next(_numbers)}-{self.name}.log")
        child.say("serve")
        self._live.add(child)
        return child

    def _start_cj(self) -> Child:
        args = CJArgs(url=self._cj_url, settings=self._settings, site="soak", agent_ids=(self.name,))
        child = Child(cj_program.main, args, self._folder / f"{next(_numbers)}-cj-of-{self.name}.log")
        self._ask(child)
        return child

    def _ask(self, cj: Child) -> None:
        if not self.finished:
            # every tenth is too large for its entry
            cj.say("run_array", self.task_ids[self.done], 40_000 if self.done % 10 == 9 else 4, self.name)

    # -- faults --------------------------------------------------------------------------------------------------------

    def kill_agent(self) -> None:
        self._hurt(self.agent, "kill agent")
        self._live.discard(self.agent)
        self.agent.kill()
        self._replace_agent()

    def stop_agent(self) -> None:
        self._hurt(self.agent, "stop agent")
        self._live.discard(self.agent)
        self.agent.signal(signal.SIGCONT)
        self.agent.say("end")
        self._replace_agent()

    def replace_agent(self) -> None:
        self._hurt(self.agent, "replace agent")
        self._replace_agent()

    def _replace_agent(self) -> None:
        self._former.append(self.agent)
        self.agent = self._start_agent()

    def kill_cj(self) -> None:
        self.cj.kill()
        self._former.append(self.cj)
        self.hear(self.cj)
        self.cj = self._start_cj()

    def freeze_agent(self) -> Callable[[], None]:
        """Stop the agent; return the function that lets it go on. Nobody else has a reason to do its work."""
        return _freeze(self.agent)

    def freeze_cj(self) -> Callable[[], None]:
        return _freeze(self.cj)

    def replace_cj(self) -> None:
        self.hear(self.cj)
        self._former.append(self.cj)
        self.cj = self._start_cj()

    def abort_task(self) -> None:
        if not self.finished:
            # it may be the next one that is hit
            self._tally.abort_ordered.update(self.task_ids[self.done : self.done + 2])
            self.cj.say("abort", self.name)

    def _hurt(self, agent: Child, kind: str) -> None:
        self._fates[agent] = kind
        self.hear(agent)
        if work := self._works.get(agent):
            work[1].hurt = kind

    # -- messages of the processes -------------------------------------------------------------------------------------

    def hear(self, child: Child) -> int:
        """Note all messages of a child; return how many tasks have ended by them."""
        before = self.done
        alive = child.alive
        while (message := child.next_message()) is not None:
            self._note(child, *message)
        if not alive and child in self._former:
            self._former.remove(child)
            child.close()
        elif not alive:
            self._tally.broken.append(f"{child} of {self.name} has ended by itself:\n{child.log_tail()}")
        return self.done - before

    def _note(self, child: Child, kind: str, *values: Any) -> None:
        match kind:
            case "task":
                task_id, attempt = values
                work = Work(by=f"{child.pid}:{attempt}", attempt=attempt, hurt=self._fates.get(child, ""))
                self._works[child] = (task_id, work)
                self._tally.works[task_id].append(work)
            case "submitted" if values[0]:
                task_id, work = self._works[child]
                self._tally.submitted[task_id].append(work.by)
            case "closed":
                self._closed(child, values[0])
            case "result":
                task_id, by = values
                self._tally.results[task_id].append(by)
                self._ended(child, task_id)
            case "failed":
                task_id, error, reason = values
                if child is self.cj or "taken over" not in reason:
                    self._failed(child, task_id, f"{error}: {reason}")

    def _closed(self, agent: Child, reason: str) -> None:
        agent.dismiss()
        self._live.discard(agent)
        if agent is not self.agent:
            return
        if not self._live:
            self._tally.broken.append(f"{agent} of {self.name} was closed: {reason}")
            return
        # behind a cut cable the one that was started first may be the last to say hello
        self._former.append(agent)
        self._fates[agent] = "replace agent"
        self.agent = self._live.pop()
        self._live.add(self.agent)
        self._former.remove(self.agent)
        self._fates.pop(self.agent, None)

    def _failed(self, child: Child, task_id: str, reason: str) -> None:
        if "abort" in reason or "the test says so" in reason:
            self._tally.aborted.add(task_id)
        else:
            self._tally.broken.append(f"{task_id} failed: {reason}")
        self._ended(child, task_id)

    def _ended(self, child: Child, task_id: str) -> None:
        if not self.finished and self.task_ids[self.done] == task_id:
            self.done += 1
        if child is self.cj and child not in self._former:
            self._ask(child)

    def close(self) -> None:
        """Kill everybody."""
        for child in self.children:
            child.close()


def _freeze(child: Child) -> Callable[[], None]:
    child.signal(signal.SIGSTOP)
    return lambda: child.signal(signal.SIGCONT) if child.alive else None
