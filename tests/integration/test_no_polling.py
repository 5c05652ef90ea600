"""Nothing polls: an idle link sends the heartbeats of both sides, and its threads sleep in between."""

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

from tests.support.link.processes import LinkProcesses
from tests.support.process.child import Child
from tests.support.waiting import wait_until

SECONDS = 10.0
#: Heartbeats of one side at the default interval, and one more for the start of the window.
BEATS = SECONDS / LinkSettings().heartbeat_interval + 1


@pytest.fixture
def idle(shared_server: tuple[str, redis.Redis], tmp_path: Path) -> Iterator[tuple[LinkProcesses, Child, Child]]:
    """A CJ and an agent at their default intervals, idle after a completed task."""
    url, client = shared_server
    with LinkProcesses(url, tmp_path, client, "idle") as processes:
        settings = LinkSettings(namespace="idle", policy=processes.settings.policy)
        cj, agent = processes.cj(settings=settings), processes.agent(settings=settings)
        agent.send("serve")
        for number in range(2):
            cj.send("run", f"warm-{number}", number)
            cj.receive("result")
        yield processes, cj, agent
        processes.close()
        client.unlink(*processes.own_keys())  # at default intervals they would expire after a minute


def watch(processes: LinkProcesses) -> Counter[str]:
    """Count the commands that other connections send in ten seconds, without those of scripts."""
    counted: Counter[str] = Counter()
    own = str(processes.client.client_info()["addr"])
    over = threading.Timer(SECONDS, lambda: processes.client.echo("over"))
    with redis.Redis.from_url(processes.url) as other, other.monitor() as monitor:
        over.start()
        for line in monitor.listen():
            sender = f"{line['client_address']}:{line['client_port']}"
            if line["command"].startswith("ECHO over"):
                return counted
            if line["client_type"] != "lua" and sender != own:
                counted[line["command"].split()[0].upper()] += 1
    raise AssertionError("the monitor ended")


def test_a_link_with_a_task_in_progress_sends_at_most_one_command_a_second(
    idle: tuple[LinkProcesses, Child, Child],
) -> None:
    processes, cj, agent = idle
    agent.kill()
    cj.send("run", "t", 1)
    processes.agent_with_task(settings=LinkSettings(namespace="idle", policy=processes.settings.policy))
    assert_quiet(watch(processes))


def assert_quiet(counted: Counter[str]) -> None:
    assert counted.total() <= SECONDS, f"{counted}"
    assert counted["EVALSHA"] >= 2, "there were no heartbeats"


def test_threads_of_an_idle_link_wake_only_for_heartbeats(
    idle: tuple[LinkProcesses, Child, Child], tmp_path: Path
) -> None:
    processes, cj, agent = idle
    if shutil.which("strace") is None:
        assert_quiet(watch(processes))
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
        assert_quiet(watch(processes))
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
    """Count for each thread the waits that lasted longer than a millisecond."""
    counted: Counter[str] = Counter()
    for line in trace.splitlines():
        if found := re.match(r"(\d+) .*<(\d+\.\d+)>$", line):
            counted[found[1]] += float(found[2]) > 0.001
    return counted
