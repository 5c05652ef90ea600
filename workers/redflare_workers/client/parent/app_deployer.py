"""``AppDeployer``: unpacks and checks an app, and puts the run's folder in place, as a whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson
from redflare_broker.errors import ConfigError
from redflare_broker.fqcn import FQCN, check_name

from redflare_workers.jobs.app_config import CLIENT_CONFIG, parse_side
from redflare_workers.jobs.archive import replace_folder, safe_extract
from redflare_workers.jobs.component_builder import ComponentBuilder
from redflare_workers.jobs.config_file import find_config, load_config
from redflare_workers.jobs.custom_code import CustomCode
from redflare_workers.jobs.problems import JobProblems, Problem
from redflare_workers.util.atomic_file import replacing
from redflare_workers.workspace.run_folder import APP_FILE, META_FILE, RunFolder
from redflare_workers.workspace.site_settings import SiteSettings

#: Prefix of the names of unfinished folders.
_UNFINISHED: Final = ".redflare-deploy-"


@dataclass(frozen=True, slots=True)
class AppDeployer:
    """Deploys apps at a site."""

    #: what the site allows
    settings: SiteSettings

    def deploy(
        self, workspace: str | Path, job_id: str, job_meta: Mapping[str, Any], app_name: str, app_data: Any, site: str
    ) -> str:
        """Make ``<workspace>/<job_id>`` with ``meta.json``, ``fl_app.txt`` and ``app_<site>``; "" or what is wrong.

        An earlier run is replaced only when the app is accepted; else nothing changes, and nothing is left behind.

        Args:
            job_meta: the job's; a dict that JSON can hold.
            app_data: a zip archive with ``config`` and perhaps ``custom``.
        """
        try:
            folder = RunFolder(workspace, job_id)
            FQCN.check_segment(app_name, "name of the app")
            check_name(site, "name of the site")
            meta = _checked_meta(job_meta, job_id)
            if not isinstance(app_data, bytes | bytearray | memoryview):
                raise ConfigError(f"an app must be the bytes of an archive, but got a {type(app_data).__name__}")
            if folder.is_foreign:
                raise ConfigError(f"{folder.path} exists and is not the run of a job; choose another job_id")
            folder.path.parent.mkdir(parents=True, exist_ok=True)
            fresh = Path(tempfile.mkdtemp(prefix=f"{_UNFINISHED}{job_id}-", dir=folder.path.parent))
            try:
                self._fill(fresh / "new", site, meta, app_name, app_data)
                replace_folder(folder.path, fresh / "new", fresh / "old")
            finally:
                shutil.rmtree(fresh, ignore_errors=True)
        except (ConfigError, TypeError, OSError) as error:
            return f"job {job_id!r:.100} cannot be deployed: {error}"
        return ""

    def _fill(self, run: Path, site: str, meta: bytes, app_name: str, app_data: bytes | bytearray | memoryview) -> None:
        app = run / f"app_{site}"
        safe_extract(app_data, app, max_bytes=self.settings.max_bytes, max_files=self.settings.max_files)
        if problems := self._problems(app):
            raise JobProblems(f"the site rejected the app {app_name!r}", problems)
        for name, content in ((META_FILE, meta), (APP_FILE, app_name.encode())):
            with replacing(run / name) as file:
                file.write(content)

    def _problems(self, app: Path) -> list[Problem]:
        """Check the app without running any of it; return what keeps it from running here."""
        paths = {f"config/{path.name}" for path in (app / "config").glob("*") if path.is_file()}
        file, problems = find_config(f"config/{CLIENT_CONFIG}", paths)
        if file is None or problems:
            return problems
        tree, problems = load_config(file, (app / file).read_bytes())
        if problems:
            return problems
        side, problems, _ = parse_side(tree, file, server=False)
        sources = {path.relative_to(app / "custom").as_posix(): path for path in (app / "custom").rglob("*.py")}
        custom = CustomCode({name: path.read_bytes() for name, path in sorted(sources.items())})
        builder = ComponentBuilder(self.settings.allow, allow_custom=self.settings.allow_custom, folder=app.parent)
        return [*problems, *builder.check_side(side, custom), *custom.shadows()]


def sweep(workspace: str | Path) -> None:
    """Remove unfinished folders of a client parent that was killed; call it before anything is deployed."""
    for path in Path(workspace).glob(f"{_UNFINISHED}*"):
        shutil.rmtree(path, ignore_errors=True)


def _checked_meta(job_meta: Any, job_id: str) -> bytes:
    if not isinstance(job_meta, Mapping):
        raise ConfigError(f"the meta of a job must be a dict, but got a {type(job_meta).__name__}")
    if job_meta.get("job_id", job_id) != job_id:
        raise ConfigError(f"the meta is of job {job_meta['job_id']!r}")
    agent_id = job_meta.get("agent_id")
    if agent_id is not None:
        check_name(agent_id, "agent_id in the job's meta")
    try:
        return orjson.dumps(dict(job_meta), option=orjson.OPT_INDENT_2)
    except (TypeError, orjson.JSONEncodeError) as error:
        raise ConfigError(f"the meta of a job is not valid JSON: {error}") from error
