"""``IPCAgent.stop`` from a signal handler: the thread that it interrupts may hold any lock."""

from __future__ import annotations

import logging
import os

import pytest
from redflare_agent import AgentClosed, IPCAgent
from redflare_broker.testing.plugin import LinkUnderTest

from tests.support.calls import in_thread
from tests.support.link.blocked import until_blocked
from tests.support.process.handlers import NUMBER, handling
from tests.support.waiting import wait_until


def test_a_signal_handler_that_interrupts_a_call_leaves_the_stopping_to_a_thread(
    redflare_link: LinkUnderTest, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with redflare_link.cj(), IPCAgent(**redflare_link.agent_args) as agent, handling(agent.stop):

        def interrupt() -> None:
            until_blocked(agent)
            os.kill(os.getpid(), NUMBER)

        sender = in_thread(interrupt)
        with pytest.raises(AgentClosed):
            agent.get_task()
        sender.join()
        wait_until(lambda: f"agent {agent.fqcn} stopped" in caplog.messages)
    stopped = next(record for record in caplog.records if record.getMessage() == f"agent {agent.fqcn} stopped")
    assert stopped.threadName == f"redflare-stop-{agent.fqcn}"
