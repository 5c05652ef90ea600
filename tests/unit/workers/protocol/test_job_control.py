"""The process of a job obeys its parent, and no other cell."""

from __future__ import annotations

from redflare_workers.protocol.job_control import OTHER_RUN, AbortRun, obey, pong
from redflare_workers.protocol.message import WRONG_SENDER

from tests.support.cell.cells import cells_on_fakeredis


def test_a_process_is_ended_by_its_parent_and_by_nobody_else() -> None:
    obeyed: list[str] = []

    def on_abort(message: AbortRun) -> object:
        obeyed.append(message.reason)
        return pong(message.run)

    with cells_on_fakeredis() as cells:
        process = cells.make("site-1.job")
        obey(process, "site-1", "run-1", AbortRun, on_abort)  # type: ignore[arg-type]

        def abort(by: str, run: str = "run-1") -> str:
            message = AbortRun(run=run, reason=by)
            cell = cells.make(by)
            return cell.send_request(message.CHANNEL, message.TOPIC, "site-1.job", message.to_meta(), timeout=5).rc

        assert abort("site-2") == WRONG_SENDER
        assert abort("server") == WRONG_SENDER
        assert abort("site-1", "run-0") == OTHER_RUN
        assert abort("site-1") == "OK"
        assert process.faults.totals == {"sent in the name of another": 2, "for another run": 1}
    assert obeyed == ["site-1"]
