"""Between NVFlare's world (Shareable, DXO) and the link's (task, outcome); pure."""

from __future__ import annotations

from typing import Any, Final

from nvflare.apis.dxo import DXO, DataKind
from nvflare.apis.fl_constant import FLMetaKey
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.app_common.app_constant import AppConstants
from redflare_broker.constants import MetaKey
from redflare_broker.link.exchange import ExchangeOutcome
from redflare_broker.wire.collection import from_plain, to_plain

from redflare_workers.ipc.translation import code_of

#: Keys of the meta of the agent's task, and the header of the Shareable that each is from.
_HEADERS: Final = (
    (MetaKey.CURRENT_ROUND, AppConstants.CURRENT_ROUND),
    (MetaKey.TOTAL_ROUND, AppConstants.NUM_ROUNDS),
    (FLMetaKey.START_ROUND, AppConstants.START_ROUND),
    (FLMetaKey.VALIDATE_TYPE, AppConstants.VALIDATE_TYPE),
)


def task_meta(dxo: DXO, shareable: Shareable, site_name: str, job_id: str) -> dict[str, Any]:
    """Make the meta of the agent's task: the DXO's, its kind, the rounds of the Shareable's headers, site and job."""
    meta = {FLMetaKey.SITE_NAME: site_name, FLMetaKey.JOB_ID: job_id, **(dxo.meta or {})}
    meta[MetaKey.DATA_KIND] = dxo.data_kind
    for key, header in _HEADERS:
        value = shareable.get_header(header)
        if value is not None:
            meta[key] = value
    return meta


def plain_data(dxo: DXO) -> Any:
    """Make the data of the agent's task, without DXO objects."""
    return to_plain(dxo.data_kind, {} if dxo.data is None else dxo.data, DXO)


def reply_of(outcome: ExchangeOutcome, dxo: DXO) -> Shareable:
    """Make the executor's reply: the result as a DXO, or a reply with the return code that says why there is none.

    Raises:
        ValueError: kind and data of the result do not fit each other.
    """
    if code := code_of(outcome):
        return make_reply(code)
    app_defined = dxo.data_kind == DataKind.APP_DEFINED
    kind = DataKind.APP_DEFINED if app_defined else outcome.meta.get(MetaKey.DATA_KIND, DataKind.WEIGHTS)
    reply = DXO(kind, from_plain(kind, outcome.data, DXO), outcome.meta).to_shareable()
    reply.set_return_code(outcome.rc)
    return reply
