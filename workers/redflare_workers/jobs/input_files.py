"""Files that a config names for components to read: whether the job brings them."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Collection, Iterator
from pathlib import PurePosixPath
from typing import Any, Final

from redflare_broker.util.did_you_mean import did_you_mean

from redflare_workers.util.input_file import INPUT_FILE

#: Variables of the run that name a folder of the app.
_FOLDERS: Final = {"{JOB_CONFIG_DIR}": "config", "{JOB_CUSTOM_DIR}": "custom"}
#: The folder of the app in the folder of the run, from which paths start.
_APP: Final = re.compile(r"app_[^/]+/")
_VARIABLE: Final = re.compile(r"\{\w+\}")


def input_arguments(target: Callable[..., Any]) -> frozenset[str]:
    """Return the names of arguments that may name a file which the component reads."""
    init = target.__init__ if inspect.isclass(target) else target
    try:
        hints = typing.get_type_hints(init, include_extras=True)
    except NameError:
        return frozenset()
    return frozenset(name for name, hint in hints.items() if _reads(hint))


def _reads(hint: Any) -> bool:
    return INPUT_FILE in getattr(hint, "__metadata__", ()) or any(map(_reads, typing.get_args(hint)))


def missing_files(value: Any, files: Collection[str], *, server: bool, is_first: bool) -> Iterator[str]:
    """Say which of the files that an argument names the job does not bring; a file of the site is none of them.

    Args:
        value: a path, or a dict of paths.
        files: of the app, by path from its folder.
        server: the app is the server's, whose folder has a name that is known.
        is_first: no component before this one could have made the file.
    """
    for path in value.values() if isinstance(value, dict) else [value]:
        if isinstance(path, str) and (text := _why_missing(path, files, "app_server/" if server else "", is_first)):
            yield text


def _why_missing(path: str, files: Collection[str], top: str, is_first: bool) -> str:
    for variable, folder in _FOLDERS.items():
        if path.startswith(f"{variable}/"):
            return _lacks(f"{folder}/{path.removeprefix(f'{variable}/')}", files)
    if _VARIABLE.search(path) or PurePosixPath(path).is_absolute():
        return ""
    plain = PurePosixPath(path).as_posix()
    if (found := _APP.match(plain)) and found[0] == (top or found[0]):
        return _lacks(plain.removeprefix(found[0]), files)
    if not is_first:
        return ""
    inside = plain if plain in files else "config/model.npz"
    return f"{path!r} is in no folder of this job; a file of the app is named like {top or 'app_<site>/'}{inside}"


def _lacks(path: str, files: Collection[str]) -> str:
    return "" if path in files else f"the app has no file {path!r}{did_you_mean(path, files)}"
