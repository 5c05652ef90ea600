"""Messages between parents, and between a parent and its jobs' processes: encoded, decoded, and checked."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from redflare_broker.errors import DecodeError
from redflare_workers.protocol import job_control, parent_messages
from redflare_workers.protocol.job_control import AbortRunTask, JobStatus, PingReply
from redflare_workers.protocol.message import Fields, Message
from redflare_workers.protocol.parent_messages import (
    AbortProof,
    DeployRequest,
    SiteLog,
    SiteReport,
    StartReply,
    TaskAbortProof,
)

MESSAGES = [
    DeployRequest(job="job-1", app="app", meta={"name": "means", "job_id": "job-1"}),
    StartReply(message="Start the client app...", run="r"),
    AbortProof(message="", how="killed", at=1.5, seconds=3, exit_code=-9, agents={"site-1--agent": "left"}),
    SiteReport(site="site-1", job="job-1", run="r", status="stopped", exit_code=0, how="killed", at=1.0),
    SiteLog(site="site-1", job="job-1", lines=["one", "two"]),
    AbortRunTask(run="r", reason="enough", grace=0.5),
    TaskAbortProof(),
    PingReply(run="r", task="train"),
    JobStatus(job="job-1", run="r", status=2),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_is_received_unchanged_and_fields_of_a_later_version_are_ignored(message: Fields) -> None:
    meta = orjson.loads(orjson.dumps(message.to_meta()))
    assert type(message).from_meta({**meta, "of a later version": 1}) == message


@pytest.mark.parametrize(
    ("message", "meta", "error"),
    [
        (SiteLog, {"site": "s", "job": "j"}, "message server/site_log: lines is missing"),
        (SiteLog, {"site": "s", "job": "j", "lines": "one"}, r"lines must be of type list\[str\], but is 'one'"),
        (
            SiteLog,
            {"site": "s", "job": "j", "lines": ["one", 2]},
            r"lines must be of type list\[str\], but is \['one', 2\]",
        ),
        (
            SiteReport,
            {"site": "s", "job": "j", "run": "r", "status": ""},
            "site_report: status must not be empty",
        ),
        (
            SiteReport,
            {"site": "s", "job": "j", "run": "r", "status": "started", "exit_code": True},
            r"message server/site_report: exit_code must be of type int \| None, but is True",
        ),
        (
            SiteReport,
            {"site": "s", "job": "j", "run": "r", "status": "started", "agents": {"a": 1}},
            r"message server/site_report: agents must be of type collections.abc.Mapping\[str, str\], but is {'a': 1}",
        ),
        (
            JobStatus,
            {"job": "j", "run": "r", "status": "2"},
            "site/job_status: status must be of type int, but is '2'",
        ),
        (
            AbortRunTask,
            {"run": "r", "grace": "soon"},
            "job_control/abort_task: grace must be of type float, but is 'soon'",
        ),
        (AbortProof, {"how": "killed"}, "reply AbortProof: at is missing"),
    ],
)
def test_a_bad_field_is_refused_with_message_field_and_value(
    message: type[Fields], meta: dict[str, Any], error: str
) -> None:
    with pytest.raises(DecodeError, match=error):
        message.from_meta(meta)


def test_no_two_messages_travel_on_the_same_channel_and_topic() -> None:
    kinds = {
        each
        for module in (parent_messages, job_control)
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, Message) and hasattr(each, "TOPIC")
    }
    assert len({(each.CHANNEL, each.TOPIC) for each in kinds}) == len(kinds) == 11
