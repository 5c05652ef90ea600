"""Nothing leaks: no key without a TTL, no file descriptor, no thread."""

from __future__ import annotations

import gc
import os
import threading
from typing import Any

import numpy as np
import redis
from redflare_agent import IPCAgent
from redflare_workers.ipc.exchanger import IPCExchanger

from tests.support.link.processes import LinkProcesses, quick_settings
from tests.support.waiting import wait_until

BIG = {"w": np.arange(400_000.0)}


def test_every_key_expires_after_results_aborts_and_crashes(processes: LinkProcesses) -> None:
    processes.client.xadd(processes.keys.results, {"not": "ours"})
    processes.client.pexpire(processes.keys.results, 6_000)
    cj, agent = processes.cj(), processes.agent()
    agent.send("get")
    cj.send("run", "aborted", BIG)
    agent.receive("task")
    cj.send("abort")
    cj.receive("failed")
    agent.send("serve")
    cj.send("run", "done", BIG)
    cj.receive("result")
    agent.kill()
    processes.assert_all_keys_expire()
    cj.send("run", "lost", BIG)
    processes.until("lost", "NEW")
    halfway = processes.agent(wait_at="before:submit")
    halfway.send("get")
    halfway.receive("task")
    halfway.send("echo")
    halfway.receive("at")
    assert sum(":blob:" in key for key in processes.own_keys()) >= 2
    halfway.kill()
    cj.kill()
    processes.assert_all_keys_expire()
    assert processes.client.xlen(processes.keys.dead) == 1
    processes.assert_nothing_is_left()


def test_descriptors_and_threads_return_to_the_start(shared_server: tuple[str, redis.Redis]) -> None:
    url, client = shared_server
    args: dict[str, Any] = {"settings": quick_settings("cycles")}

    def cycle() -> None:
        with IPCExchanger(
            redis_url=url, site_name="s", agent_id="a", agent_heartbeat_interval=0.02, **args
        ) as exchanger:
            agent = IPCAgent(url, "s", "a", ".", **args)
            agent.start()
            wait_until(lambda: exchanger.agent_connected)
            agent.stop()

    def held() -> tuple[int, int]:
        gc.collect()
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    cycle()
    client.ping()
    before = held()
    for _ in range(50):
        cycle()
    wait_until(lambda: held() == before, what=f"{before} descriptors and threads again")
