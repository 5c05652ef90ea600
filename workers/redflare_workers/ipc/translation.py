"""Between the executor's world (Shareable, DXO) and the link's (task, outcome); pure, after NVFlare's IPCExchanger."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from redflare_broker.constants import JOB_META_KEY_AGENT_ID, RC, MetaKey
from redflare_broker.errors import ConfigError
from redflare_broker.link.exchange import ExchangeOutcome
from redflare_broker.scripts.script import BLOB_MISSING
from redflare_broker.scripts.task_states import ACCEPTED, REJECTED
from redflare_broker.wire.collection import from_plain

from redflare_workers.apis.app_constant import AppConstants
from redflare_workers.apis.dxo import DataKind
from redflare_workers.apis.fl_constant import ReturnCode
from redflare_workers.apis.shareable import ReservedHeaderKey, Shareable

#: Keys of the meta of the agent's task, and the header of the Shareable that each is from.
ROUNDS: Final[Mapping[str, str]] = {
    MetaKey.CURRENT_ROUND: AppConstants.CURRENT_ROUND,
    MetaKey.TOTAL_ROUND: AppConstants.NUM_ROUNDS,
}
#: Characters of the reason in a reply.
LONGEST_REASON: Final = 1000


def agent_id_of(job_meta: object) -> str:
    """Return the agent that a job's meta names.

    Raises:
        ConfigError: it names none, or not a str.
    """
    agent_id = job_meta.get(JOB_META_KEY_AGENT_ID) if isinstance(job_meta, dict) else None
    if agent_id is None or agent_id == "":
        raise ConfigError(f"no agent_id was given, and the job's meta has no {JOB_META_KEY_AGENT_ID!r}")
    if not isinstance(agent_id, str):
        kind = type(agent_id).__name__
        raise ConfigError(f"{JOB_META_KEY_AGENT_ID!r} in the job's meta must be a str, but is {agent_id!r} ({kind})")
    return agent_id


def task_meta(dxo: Any, shareable: Shareable, headers: Mapping[str, str] = ROUNDS) -> dict[str, Any]:
    """Make the meta of the agent's task: the DXO's, its kind, and the Shareable's ``headers`` by their keys in it."""
    meta = dict(dxo.meta or {})
    meta[MetaKey.DATA_KIND] = dxo.data_kind
    for key, header in headers.items():
        value = shareable.get_header(header)
        if value is not None:
            meta[key] = value
    return meta


def _code_of(outcome: ExchangeOutcome) -> str:
    """Return the return code of an outcome without a result; "" when it has one."""
    if outcome.status == REJECTED:
        if outcome.rc == BLOB_MISSING:
            return BLOB_MISSING
        failed = outcome.rc == RC.EXECUTION_EXCEPTION
        return ReturnCode.EXECUTION_EXCEPTION if failed else ReturnCode.BAD_REQUEST_DATA
    if outcome.status != ACCEPTED:
        return ReturnCode.TASK_ABORTED
    return "" if outcome.rc in (RC.OK, RC.EARLY_TERMINATION) else outcome.rc


def reply_of(outcome: ExchangeOutcome, dxo: Any, make_reply: Callable[..., Shareable]) -> Shareable:
    """Make the executor's reply to a task.

    Args:
        dxo: the task's; the result becomes one of the same class, ours or NVFlare's.
        make_reply: makes the reply of a return code that says why there is no result.

    Raises:
        ValueError: kind and data of the result do not fit each other.
    """
    if code := _code_of(outcome):
        why = problem_of(outcome)
        return make_reply(code, {ReservedHeaderKey.ERROR: why[:LONGEST_REASON]} if why else None)
    kind = dxo.data_kind
    if kind != DataKind.APP_DEFINED:
        kind = outcome.meta.get(MetaKey.DATA_KIND, DataKind.WEIGHTS.value)
    reply: Shareable = type(dxo)(kind, from_plain(kind, outcome.data, type(dxo)), outcome.meta).to_shareable()
    reply.set_return_code(outcome.rc)
    return reply


def problem_of(outcome: ExchangeOutcome) -> str:
    """Return the failure at the agent, for the log; "" without one, or when the task was aborted."""
    if outcome.status == REJECTED:
        return f"it was rejected: {outcome.reason}"
    if outcome.status == ACCEPTED and outcome.rc not in (RC.OK, RC.EARLY_TERMINATION):
        why = outcome.meta.get("exception") or outcome.meta.get("reason") or "no reason given"
        return f"the agent answered {outcome.rc}: {why}"
    return ""
