"""Jobs as users write them: a folder or a zip with ``meta.json`` and a folder for each app."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from redflare_workers.util.site_defaults import MAX_BYTES, MAX_FILES

from .app_config import CLIENT_CONFIG, SERVER_CONFIG, AppConfig, SideConfig, parse_side
from .archive import ArchiveError, pack_files, read_files, walk
from .component_builder import ComponentBuilder
from .config_file import SUFFIXES, read_config
from .custom_code import CustomCode
from .job_meta import SERVER, JobMeta, parse_meta
from .problems import JobProblems, Problem, further

#: Files of editors and interpreters, which are not part of a job.
_LITTER: Final = frozenset({"__pycache__", "__MACOSX", ".DS_Store", ".git", ".mypy_cache", ".pytest_cache"})


@dataclass(frozen=True, slots=True, kw_only=True)
class JobDefinition:
    """A job whose files have no errors."""

    meta: JobMeta
    #: by name of the folder
    apps: Mapping[str, AppConfig]
    #: all files by path
    files: Mapping[str, bytes]
    #: about files and keys that have no effect
    warnings: tuple[Problem, ...] = ()

    @property
    def agents(self) -> dict[str, list[str]]:
        """The agents that components of the sites name in their arguments, by app."""
        sides = {name: app.client for name, app in self.apps.items()}
        return {name: side.agents for name, side in sides.items() if side is not None and side.agents}

    def archive(self) -> bytes:
        """Return the whole job as a zip; the same files give the same bytes."""
        return pack_files(self.files)

    def app_archive(self, app: str) -> bytes:
        """Return one app as a zip, with ``config`` and ``custom`` at its top, for ``deploy_app``.

        Raises:
            KeyError: the job has no app of that name.
        """
        if app not in self.apps:
            raise KeyError(f"this job has no app {app!r}, only {sorted(self.apps)}")
        top = f"{app}/"
        return pack_files({path.removeprefix(top): data for path, data in self.files.items() if path.startswith(top)})


def read_job(
    source: str | os.PathLike[str] | bytes | bytearray | memoryview,
    *,
    max_bytes: int = MAX_BYTES,
    max_files: int = MAX_FILES,
    installed: bool = False,
) -> JobDefinition:
    """Read a job and check it as a whole; none of its code is run.

    Args:
        source: a folder, a zip file, or the bytes of one.
        installed: import the modules that are installed here and that the job names, and check the arguments of their
            components as well.

    Raises:
        JobProblems: all its errors, each with file and key.
        ArchiveError: the archive itself is refused.
        OSError: it cannot be read.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        files = _at_top(read_files(source, max_bytes=max_bytes, max_files=max_files))
        return define_job(files, "the job", installed=installed)
    path = Path(source)
    if path.is_dir():
        return define_job(_read_folder(path, max_bytes, max_files), f"job {path}", installed=installed)
    files = _at_top(read_files(path, max_bytes=max_bytes, max_files=max_files))
    return define_job(files, f"job {path}", installed=installed)


def define_job(files: Mapping[str, bytes], what: str = "the job", *, installed: bool = False) -> JobDefinition:
    """Check a job, given by its files, and return its definition; messages call it ``what``.

    Raises:
        JobProblems: all its errors.
    """
    kept = {path: data for path, data in files.items() if not _is_litter(path)}
    meta, problems, warnings = _read_meta(kept)
    apps: dict[str, AppConfig] = {}
    # every site decides what it allows; here, everything is
    builder = ComponentBuilder(None, allow_custom=True, trial=True, installed=installed)
    for name, targets in meta.deploy_map.items():
        needs = {
            SERVER_CONFIG: meta.app_for(SERVER) == name,
            CLIENT_CONFIG: any(target != SERVER for target in targets),
        }
        apps[name], wrong, odd = _read_app(name, needs, kept, builder)
        problems += wrong
        warnings += odd
    if problems:
        raise JobProblems(f"{what} has {len(problems)} error{'s' * (len(problems) > 1)}", problems)
    tops = {path.partition("/")[0] for path in kept if "/" in path}
    warnings += [
        Problem(top, "", "is not an app of the deploy map and has no effect") for top in sorted(tops - set(apps))
    ]
    return JobDefinition(meta=meta, apps=apps, files=kept, warnings=tuple(warnings))


# -- files -------------------------------------------------------------------------------------------------------------


def _read_folder(folder: Path, max_bytes: int, max_files: int) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    problems: list[Problem] = []
    left = max_bytes
    for path in walk(folder, _LITTER):
        relative = path.relative_to(folder).as_posix()
        if _is_litter(relative):
            continue
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            problems.append(Problem(relative, "", "is neither a file nor a folder (a symlink?); put a copy there"))
            continue
        left -= status.st_size
        if left < 0 or len(files) >= max_files:
            raise ArchiveError(f"{folder} has more than {max_bytes} bytes, or more than {max_files} files")
        files[relative] = path.read_bytes()
    if problems:
        raise JobProblems(f"job {folder} cannot be read", problems)
    return files


def _at_top(files: dict[str, bytes]) -> dict[str, bytes]:
    """Remove the one folder that all files of an archive are in, as when a folder was zipped."""
    kept = {path: data for path, data in files.items() if not _is_litter(path)}
    tops = {path.partition("/")[0] for path in kept}
    if len(tops) == 1 and all("/" in path for path in kept):
        return {path.partition("/")[2]: data for path, data in kept.items()}
    return kept


def _is_litter(path: str) -> bool:
    return path.endswith((".pyc", ".pyo")) or not _LITTER.isdisjoint(path.split("/"))


# -- parts of a job ----------------------------------------------------------------------------------------------------


def _read_meta(files: Mapping[str, bytes]) -> tuple[JobMeta, list[Problem], list[Problem]]:
    file, tree, problems = read_config("meta", files)
    return (JobMeta(name=""), problems, []) if problems else parse_meta(tree, file)


def _read_app(
    name: str, needs: Mapping[str, bool], files: Mapping[str, bytes], builder: ComponentBuilder
) -> tuple[AppConfig, list[Problem], list[Problem]]:
    top = f"{name}/"
    if not any(path.startswith(top) for path in files):
        problem = Problem(name, "", "is in the deploy map, but the job has no such folder")
        return AppConfig(name=name), [problem], []
    problems: list[Problem] = []
    warnings: list[Problem] = []
    sides: dict[str, SideConfig | None] = {}
    for stem, needed in needs.items():
        sides[stem], wrong, odd = _read_side(f"{top}config/{stem}", files, needed)
        problems += wrong
        warnings += odd
    below = f"{top}custom/"
    sources = {
        path.removeprefix(below): data
        for path, data in files.items()
        if path.startswith(below) and path.endswith(".py")
    }
    app = AppConfig(name=name, server=sides[SERVER_CONFIG], client=sides[CLIENT_CONFIG], custom=sources)
    custom = CustomCode(sources, f"{name}/custom")
    own = [path.removeprefix(top) for path in files if path.startswith(top)]
    problems += further(problems, [each for side in app.sides for each in builder.check_side(side, custom, own)])
    return app, [*problems, *custom.shadows()], warnings


def _read_side(
    stem: str, files: Mapping[str, bytes], needed: bool
) -> tuple[SideConfig | None, list[Problem], list[Problem]]:
    if not needed and not any(stem + suffix in files for suffix in SUFFIXES):
        return None, [], []
    file, tree, problems = read_config(stem, files)
    return (None, problems, []) if problems else parse_side(tree, file, server=stem.endswith(SERVER_CONFIG))
