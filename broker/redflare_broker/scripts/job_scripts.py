"""Every change of a job's state: the scripts ``lua/job/*.lua``, with ``job_values`` and the arguments of a lease.

The server's steps name the lease of its cell and its run: an older cell is answered FENCED, one that Redis has lost
LOST, one whose job is over ENDED with the reason. A client's steps name the lease of its name. A payload is given by
its prefix and its number of chunks: "" and 0 when it has none, or is inline.
"""

from __future__ import annotations

from typing import Final

from redflare_broker.config.retention import RetentionPolicy
from redflare_broker.keys import JobKeys
from redflare_broker.transport.replies import Arg

from .script import Script, common_values

#: Status of a job that goes on; any other is final.
RUNNING: Final = "RUNNING"
#: Reply of ``begin``: the state of the run before this one is there. NEW otherwise.
RESUMED: Final = "RESUMED"

_JOB: Final = "cell job clients standing ended blobs history task_prefix"
#: with the records of the clients
_ALL: Final = f"{_JOB} client_prefix"

JOIN: Final = Script(
    "job/join",
    "client",
    "job clients name instance epoch record retention_ms beat beat_ttl_ms may_keep",
    optional_key="heartbeat",
)
BEAT: Final = Script(
    "job/beat",
    "client heartbeat",
    "job clients server_heartbeat name instance epoch beat beat_ttl_ms retention_ms may_keep",
    frees=True,
)
LEAVE: Final = Script("job/leave", "client heartbeat", "instance epoch", frees=True)
BEGIN: Final = Script("job/begin", _ALL, "instance epoch run resume retention_ms")
FORGET: Final = Script("job/forget", "job clients standing ended task_prefix client_prefix", frees=True)
LIST_MEMBERS: Final = Script(
    "job/list_members", f"{_ALL} heartbeat_prefix", "instance epoch run retention_ms", frees=True
)
AWAIT: Final = Script("job/await", "cell job", "instance epoch run awaited retention_ms")
END: Final = Script("job/end", _ALL, "instance epoch run status reason settled_ms", frees=True)
SCHEDULE: Final = Script(
    "job/schedule",
    "cell job task standing ended blobs",
    "instance epoch run root_id order data_prefix chunks retention_ms again",
    rest="fields",
)
NOTE_CLIENT_TASK: Final = Script(
    "job/note_client_task",
    "cell job task blobs",
    "instance epoch run client_task_id record resume result_prefix chunks retention_ms",
    rest="fields",
)
FINISH: Final = Script(
    "job/finish",
    "cell job task standing ended",
    "instance epoch run root_id status ended_ms resume retention_ms settled_ms",
    frees=True,
)
CHECKPOINT: Final = Script(
    "job/checkpoint",
    _JOB,
    "instance epoch run checkpoint_id state_prefix chunks retention_ms settled_ms",
    rest="fields",
)
APPEND: Final = Script("job/append", "cell job history", "instance epoch run from retention_ms", rest="entries")
OWN_PAYLOADS: Final = Script("job/own_payloads", "cell job blobs", "instance epoch run retention_ms", rest="payloads")


def job_values(keys: JobKeys, policy: RetentionPolicy, *, may_keep: bool = True) -> dict[str, Arg]:
    """Make what all steps of one job share.

    Args:
        may_keep: a client may let the set of clients live as long as its record; False: only the server may.
    """
    prefixes = {"task_prefix": keys.task(""), "client_prefix": keys.client(""), "heartbeat_prefix": keys.heartbeat("")}
    return common_values(keys, policy) | prefixes | {"may_keep": int(may_keep)}
