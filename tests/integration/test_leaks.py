"""Nothing leaks: no key for ever, no file descriptor, no thread."""

from __future__ import annotations

import gc
import os
import threading
from typing import Any

import numpy as np
import redis
from redflare_agent import IPCAgent
from redflare_workers.ipc.exchanger import IPCExchanger

from tests.support.link.processes import Scene, quick_settings
from tests.support.waiting import wait_until

BIG = {"w": np.arange(400_000.0)}


def test_no_key_outlives_work_aborts_and_crashes(scene: Scene) -> None:
    scene.client.xadd(scene.keys.results, {"not": "ours"})
    scene.client.pexpire(scene.keys.results, 6_000)
    cj, agent = scene.cj(), scene.agent()
    agent.say("get")
    cj.say("run", "aborted", BIG)
    agent.hear("task")
    cj.say("abort")
    cj.hear("failed")
    agent.say("serve")
    cj.say("run", "done", BIG)
    cj.hear("result")
    agent.kill()
    scene.assert_all_keys_end()
    cj.say("run", "lost", BIG)
    scene.until("lost", "NEW")
    halfway = scene.agent(wait_at="before:submit")
    halfway.say("get")
    halfway.hear("task")
    halfway.say("echo")
    halfway.hear("at")
    assert sum(":blob:" in key for key in scene.own_keys()) >= 2
    halfway.kill()
    cj.kill()
    scene.assert_all_keys_end()
    assert scene.client.xlen(scene.keys.dead) == 1
    scene.assert_nothing_is_left()


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
