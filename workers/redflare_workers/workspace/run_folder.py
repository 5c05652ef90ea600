"""The folder of a job's run at a site: ``<workspace>/<job_id>``, and the files that parent and job share in it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import orjson
from redflare_broker.errors import ConfigError
from redflare_broker.fqcn import FQCN, check_job_id

from redflare_workers.util.atomic_file import replacing

logger = logging.getLogger(__name__)

META_FILE: Final = "meta.json"
#: Name of the app; its presence marks the folder of a run.
APP_FILE: Final = "fl_app.txt"
LOG_FILE: Final = "log.txt"
ARGS_FILE: Final = "args.json"
PROCESS_FILE: Final = "process.json"
OUTCOME_FILE: Final = "outcome.json"
#: FQCNs of the agents that a run works with.
AGENTS_FILE: Final = "agents.json"


class RunFolder:
    """The paths of one job; the folder need not exist.

    Raises:
        TypeError, ConfigError: as ``check_job_id``.
    """

    def __init__(self, workspace: str | Path, job_id: str) -> None:
        self.job_id = check_job_id(job_id)
        self.path = Path(workspace).resolve() / job_id

    def app_folder(self, site: str) -> Path:
        return self.path / f"app_{FQCN.check_segment(site, 'name of the site')}"

    @property
    def log(self) -> Path:
        return self.path / LOG_FILE

    @property
    def is_run(self) -> bool:
        """Whether a job was deployed there; a folder that is not a run is never changed."""
        return (self.path / APP_FILE).is_file() and not self.path.is_symlink()

    @property
    def is_foreign(self) -> bool:
        """Whether something else is there."""
        return os.path.lexists(self.path) and not self.is_run

    @property
    def submission(self) -> str | None:
        """Of which submission the job was deployed, by ``META_FILE``; None: that cannot be read."""
        submission = (self.read(META_FILE) or {}).get("submission")
        return submission if isinstance(submission, str) else None

    def read(self, name: str) -> dict[str, Any] | None:
        """Read a JSON file; None: it does not exist, or cannot be read."""
        path = self.path / name
        try:
            data = orjson.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, orjson.JSONDecodeError) as error:
            logger.error("cannot read %s: %s", path, error)
            return None
        return data if isinstance(data, dict) else None

    def write(self, name: str, data: dict[str, Any]) -> Path:
        """Write a JSON file in one step, so that readers find it whole; only its owner may read it.

        Raises:
            OSError: it cannot be written.
        """
        path = self.path / name
        with replacing(path, make_folder=False) as file:
            file.write(orjson.dumps(data, option=orjson.OPT_INDENT_2))
        return path

    def __repr__(self) -> str:
        return f"<RunFolder {self.path}>"


def begun_runs(workspace: Path) -> Iterator[RunFolder]:
    """Yield the folders of runs that a process was launched for, or is about to be."""
    for path in sorted(workspace.glob(f"*/{PROCESS_FILE}")):
        with suppress(ConfigError):
            if (folder := RunFolder(workspace, path.parent.name)).is_run:
                yield folder
