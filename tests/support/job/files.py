"""The files of a valid job, for tests that change them."""

from __future__ import annotations

import json
from typing import Any

FEDAVG: dict[str, Any] = {
    "path": "redflare_workers.workflow.FedAvg",
    "args": {"initial_model": {"w": [0.0]}, "min_clients": 2, "num_rounds": 3},
}
SERVER: dict[str, Any] = {"format_version": 2, "workflows": [FEDAVG]}
CLIENT: dict[str, Any] = {
    "format_version": 2,
    "executors": [{"tasks": ["train"], "executor": {"path": "redflare_workers.IPCExchanger"}}],
}
META: dict[str, Any] = {"name": "means", "min_clients": 2, "deploy_map": {"app": ["@ALL"]}}


def files_of(
    meta: dict[str, Any] = META,
    server: dict[str, Any] = SERVER,
    client: dict[str, Any] = CLIENT,
    custom: dict[str, str] | None = None,
) -> dict[str, bytes]:
    return {
        "meta.json": json.dumps(meta).encode(),
        "app/config/config_fed_server.json": json.dumps(server).encode(),
        "app/config/config_fed_client.json": json.dumps(client).encode(),
        **{f"app/custom/{path}": text.encode() for path, text in (custom or {}).items()},
    }
