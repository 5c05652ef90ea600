"""Nothing polls: an idle link costs a heartbeat of each side, and its threads sleep in between."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from redflare_broker.config.settings import LinkSettings

from tests.support.link.processes import Scene
from tests.support.process.child import Child
from tests.support.waiting import wait_until

SECONDS = 10.0
#: Beats of one side at the default interval, and one more for where the window begins.
BEATS = SECONDS / LinkSettings().heartbeat_interval + 1


@pytest.fixture
def idle(shared_server: tuple[str, redis.Redis], tmp_path: Path) -> Iterator[tuple[Scene, Child, Child]]:
    """A CJ and an agent at their default intervals, which have had something to do and wait for more."""
    url, client = shared_server
    with Scene(url, tmp_path, client, "idle") as scene:
        settings = LinkSettings(namespace="idle", policy=scene.settings.policy)
        cj, agent = scene.cj(settings=settings), scene.agent(settings=settings)
        agent.say("serve")
        for number in range(2):
            cj.say("run", f"warm-{number}", number)
            cj.hear("result")
        yield scene, cj, agent
        scene.close()
        client.unlink(*scene.own_keys())  # at default intervals they would stand for a minute


def watch(scene: Scene) -> Counter[str]:
    """The commands that others than this test send in ten seconds; those that scripts make do not count."""
    counted: Counter[str] = Counter()
    own = str(scene.client.client_info()["addr"])
    over = threading.Timer(SECONDS, lambda: scene.client.echo("over"))
    with redis.Redis.from_url(scene.url) as other, other.monitor() as monitor:
        over.start()
        for line in monitor.listen():
            sender = f"{line['client_address']}:{line['client_port']}"
            if line["command"].startswith("ECHO over"):
                return counted
            if line["client_type"] != "lua" and sender != own:
                counted[line["command"].split()[0].upper()] += 1
    raise AssertionError("the monitor ended")


def test_a_link_whose_agent_works_sends_no_more_than_a_command_a_second(idle: tuple[Scene, Child, Child]) -> None:
    scene, cj, agent = idle
    agent.kill()
    cj.say("run", "t", 1)
    scene.agent_with_task(settings=LinkSettings(namespace="idle", policy=scene.settings.policy))
    assert_quiet(watch(scene))


def assert_quiet(counted: Counter[str]) -> None:
    assert counted.total() <= SECONDS, f"{counted}"
    assert counted["EVALSHA"] >= 2, "nobody has beaten"


def test_an_idle_link_is_quiet_and_its_threads_wake_no_more_often_than_they_beat(
    idle: tuple[Scene, Child, Child], tmp_path: Path
) -> None:
    scene, cj, agent = idle
    if shutil.which("strace") is None:
        assert_quiet(watch(scene))
        pytest.skip("strace is not installed: only commands were counted")
    traces = {child: tmp_path / f"{child.pid}.strace" for child in (cj, agent)}
    running = [
        subprocess.Popen(
            ["strace", "-f", "-qq", "-T", "-o", str(path), "-p", str(child.pid)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for child, path in traces.items()
    ]
    try:
        wait_until(lambda: all(path.exists() for path in traces.values()))
        if any(tracer.poll() is not None for tracer in running):
            pytest.skip(f"strace may not trace here: {running[0].communicate()[1]}")
        assert_quiet(watch(scene))
    finally:
        for tracer in running:
            tracer.send_signal(signal.SIGINT)
            tracer.communicate()
    for child, path in traces.items():
        woken = wakes_in(path.read_text())
        assert woken.total(), "not even the heartbeat was seen"
        for thread, wakes in woken.items():
            # a beat is a wait for its moment and one for the reply
            assert wakes <= 2 * BEATS, f"thread {thread} of {child} woke {wakes} times in {SECONDS:g} s"


def wakes_in(trace: str) -> Counter[str]:
    """How often each thread came back from a wait that lasted longer than a millisecond."""
    counted: Counter[str] = Counter()
    for line in trace.splitlines():
        if found := re.match(r"(\d+) .*<(\d+\.\d+)>$", line):
            counted[found[1]] += float(found[2]) > 0.001
    return counted
