"""Threads that wait for a reply: which one they get."""

from __future__ import annotations

from redflare_broker.cell.blocked_calls import BlockedCall
from redflare_broker.cell.request import Reply, ReplyCode
from redflare_broker.util.patience import Patience


def test_a_reply_that_has_come_stays_although_the_call_is_aborted_before_its_thread_wakes() -> None:
    call = BlockedCall()
    call.settle(Reply(ReplyCode.OK, {"sum": 3}))
    call.settle(Reply(ReplyCode.ABORTED, {"error": "enough"}))
    assert call.wait(Patience(5.0), None).meta == {"sum": 3}
