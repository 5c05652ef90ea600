"""Jobs of NVFlare as folders, in the format of its config files: FedAvg over two sites."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.support.paths import DOCS

SCRIPTS: Final = Path(__file__).parent / "scripts"
SITES: Final = ("site-1", "site-2")
ROUNDS: Final = 5

Config = dict[str, Any]
_PAGE: Final = DOCS / "nvflare.md"


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language on the page about NVFlare, which these tests try."""
    return re.findall(rf"^```{language}\n(.*?)^```", _PAGE.read_text(), re.MULTILINE | re.DOTALL)


#: The result's weight differences are clipped and rounded on their way to the server.
CLIPPING: Final[Config] = {
    "tasks": ["train"],
    "filters": [
        {
            "path": "nvflare.app_common.filters.percentile_privacy.PercentilePrivacy",
            "args": {"percentile": 10, "gamma": 0.5},
        }
    ],
}


def redis_exchanger(url: str, agent_id: str, **more: Any) -> Config:
    """The executor as the page configures it, for another server and agent; "": the site knows the server."""
    executor: Config = json.loads(blocks("json")[0])["executor"]
    executor["args"] |= {"redis_url": url, "agent_id": agent_id, **more}
    if not url:
        del executor["args"]["redis_url"]
    return executor


def ipc_exchanger(agent_id: str) -> Config:
    """NVFlare's own executor, which the one above replaces."""
    return {"path": "nvflare.app_common.executors.ipc_exchanger.IPCExchanger", "args": {"agent_id": agent_id}}


def in_process(script: str, argument: str) -> Config:
    """NVFlare's own executor that runs a script of the Client API in the client job's process."""
    return {
        "path": "nvflare.app_common.executors.client_api_executor.ClientAPIExecutor",
        "args": {"execution_mode": "in_process", "task_script_path": script, "task_script_args": argument},
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class FedAvgJob:
    """NVFlare's FedAvg with its numpy persistor."""

    executor: Config
    rounds: int = ROUNDS
    #: Files of ``scripts`` that come with the job; such a job needs the right to bring code of its own.
    custom: tuple[str, ...] = ()
    #: A numpy file at the server with the initial model; "": four small numbers.
    initial: str = ""
    result_filters: list[Config] = field(default_factory=list)

    def write(self, folder: Path) -> Path:
        """Make ``folder`` a job's folder."""
        model = {"source_ckpt_file_full_name": self.initial} if self.initial else {"model": [[1.0, 2.0], [3.0, 4.0]]}
        server = {
            "workflows": [
                {
                    "id": "fedavg",
                    "path": "nvflare.app_common.workflows.fedavg.FedAvg",
                    "args": {"num_clients": len(SITES), "num_rounds": self.rounds},
                }
            ],
            "components": [
                {
                    "id": "persistor",
                    "path": "nvflare.app_common.np.np_model_persistor.NPModelPersistor",
                    "args": model,
                }
            ],
        }
        client = {
            "executors": [{"tasks": ["train"], "executor": self.executor}],
            "task_result_filters": self.result_filters,
            "components": [],
        }
        _write(folder / "meta.json", {"name": folder.name, "deploy_map": {"app": ["@ALL"]}, "min_clients": len(SITES)})
        _write(folder / "app" / "config" / "config_fed_server.json", {"format_version": 2, **server})
        _write(folder / "app" / "config" / "config_fed_client.json", {"format_version": 2, **client})
        for name in self.custom:
            target = folder / "app" / "custom" / name
            target.parent.mkdir(exist_ok=True)
            target.write_text((SCRIPTS / name).read_text())
        return folder


def _write(path: Path, content: Config) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1))
