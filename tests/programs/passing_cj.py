"""A client job that passes encoded tasks on to its agent, and tells what it cost."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from redflare_broker.config.settings import LinkSettings
from redflare_broker.payload.encoded_payload import EncodedPayload
from redflare_workers.apis import DXO, DataKind, Signal, from_shareable
from redflare_workers.apis.fl_context import FLContextManager
from redflare_workers.apis.shareable import ReservedHeaderKey
from redflare_workers.ipc.exchanger import IPCExchanger

from tests.programs.child_pipe import ParentPipe


@dataclass(frozen=True, kw_only=True)
class PassingCJArgs:
    """Arguments of the program."""

    url: str
    settings: LinkSettings
    #: "after:settle" and the like: where to wait for the test.
    wait_at: str = ""


class PassingCJProgram:
    """One exchanger, and the commands for it."""

    def __init__(self, pipe: ParentPipe, args: PassingCJArgs) -> None:
        self._pipe = pipe
        self._contexts = FLContextManager(identity_name="site-1", job_id="job-1")
        self.exchanger = IPCExchanger(
            redis_url=args.url,
            site_name="site-1",
            agent_id="agent",
            agent_heartbeat_interval=args.settings.heartbeat_interval,
            settings=args.settings,
        )

    def pass_on(self, task_id: str, payload: EncodedPayload) -> None:
        """Send ("result", id, an EncodedPayload, bytes by which the memory grew) or ("failed", id, return code)."""
        task = DXO(DataKind.WEIGHTS, payload).to_shareable()
        task.set_header(ReservedHeaderKey.TASK_ID, task_id)
        Path("/proc/self/clear_refs").write_text("5")  # the peak is that of now
        before = _resident("VmRSS")
        reply = self.exchanger.execute("train", task, self._contexts.new_context(), Signal())
        grown = _resident("VmHWM") - before
        if reply.get_return_code() == "OK":
            self._pipe.send("result", task_id, from_shareable(reply).data, grown)
        else:
            self._pipe.send("failed", task_id, reply.get_return_code())

    def release(self, handed_over: bool) -> None:
        self.exchanger.release_result(handed_over)
        self._pipe.send("released")


def _resident(field: str) -> int:
    found = re.search(field + r":\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def main(connection: Connection, log: str, args: PassingCJArgs) -> None:
    """Run the CJ until the test ends it."""
    logging.basicConfig(level=logging.DEBUG, format="%(asctime)s %(threadName)s %(message)s")
    pipe = ParentPipe(connection, log)
    pipe.wait_at(args.wait_at)
    program = PassingCJProgram(pipe, args)
    program.exchanger.start()
    pipe.send("started")
    pipe.serve({"pass_on": program.pass_on, "release": program.release})
    program.exchanger.stop()
    pipe.send("stopped")
