"""Fully qualified cell names (FQCN): who is who in a federation.

Keys, ACL patterns, hash tags and names of folders are built from these names, so only segments of ``[A-Za-z0-9_~-]``
are let in, none that is longer than a name of a file may be, and none that a command takes for an option. The shapes
follow NVFlare's ``FQCN`` and ``agent_site_fqcn``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from .errors import ConfigError

#: Most characters of a segment: a file system takes 255 bytes, and some prefix a segment.
_SEGMENT_LENGTH: Final = 200
#: A segment, as a regular expression.
SEGMENT: Final = rf"[A-Za-z0-9_~][A-Za-z0-9_~-]{{0,{_SEGMENT_LENGTH - 1}}}"
_LETTERS: Final = re.compile(r"[A-Za-z0-9_~-]+")
_JOB_ID_LENGTH: Final = 64
#: Folders that a workspace has beside those of its jobs.
_WORKSPACE_FOLDERS: Final = frozenset({"startup", "local"})


class FQCN:
    """Joins, splits and checks names made of segments with a dot between them."""

    SEPARATOR: Final = "."

    @staticmethod
    def check_segment(segment: object, what: str = "FQCN segment", *, most: int = _SEGMENT_LENGTH) -> str:
        """Return ``segment`` unchanged; raise ConfigError (a ValueError) that names it when it is not legal.

        Args:
            segment: the name.
            what: the name is, for the error.
            most: characters that it may have.
        """
        if not isinstance(segment, str):
            raise TypeError(f"{what} must be a str, but got {type(segment).__name__} ({segment!r})")
        if not _LETTERS.fullmatch(segment):
            raise ConfigError(
                f"{what} {segment!r:.300} is not legal: use one or more of A-Z a-z 0-9 _ ~ - and nothing else"
            )
        if len(segment) > most:
            raise ConfigError(f"{what} {segment[:40]!r}... has {len(segment)} characters: use at most {most}")
        if segment.startswith("-"):
            raise ConfigError(f"{what} {segment!r} begins with -, which commands take for an option: use another name")
        return segment

    @staticmethod
    def join(segments: Sequence[str]) -> str:
        """Join checked segments: ``["site-1", "job", "trainer"]`` becomes ``"site-1.job.trainer"``."""
        if not segments:
            raise ConfigError("an FQCN needs at least one segment, but got none")
        return FQCN.SEPARATOR.join(FQCN.check_segment(segment) for segment in segments)

    @staticmethod
    def split(fqcn: str) -> list[str]:
        """Split a name into its checked segments."""
        return [FQCN.check_segment(part, f"part of FQCN {fqcn!r}:") for part in fqcn.split(FQCN.SEPARATOR)]

    @staticmethod
    def owner(fqcn: str) -> str:
        """Return the party that a cell belongs to, the first part of its name: ``site-1`` of ``site-1.job-7``."""
        return fqcn.partition(FQCN.SEPARATOR)[0]

    @staticmethod
    def check(fqcn: str) -> str:
        """Return ``fqcn`` unchanged when every segment of it is legal; raise ConfigError otherwise."""
        FQCN.split(fqcn)
        return fqcn


def check_name(name: object, what: str) -> str:
    """Return the name of a party (server, site, agent, operator) unchanged; raise ConfigError when it is not legal.

    Between a site and its agent stand two hyphens. A name that holds them, or ends in one, would share keys with
    another's: ``a`` with its agent ``b--c``, and ``a--b`` with its agent ``c``.
    """
    checked = FQCN.check_segment(name, what)
    if "--" in checked or checked.endswith("-"):
        raise ConfigError(
            f"{what} {checked!r} is not legal: it may have single hyphens inside, since -- separates site and agent"
        )
    return checked


def agent_site_fqcn(site_name: str, agent_id: str, job_id: str | None = None) -> str:
    """Name of an agent: ``"<site>--<agent>"``, or ``"<site>.<job>.<agent>"`` when it belongs to one job.

    Raises:
        ConfigError: a part is not a name (``check_name``); it is a ValueError and names the part.
    """
    check_name(site_name, "site_name")
    check_name(agent_id, "agent_id")
    if not job_id:
        return FQCN.check_segment(f"{site_name}--{agent_id}", "name of the agent at its site")
    return FQCN.join([site_name, check_job_id(job_id), agent_id])


def check_job_id(job_id: object) -> str:
    """Return a job's id unchanged if it may be one, for keys, cells and folders alike.

    Raises:
        TypeError: it is not a str.
        ConfigError: it cannot be a segment of an FQCN, is too long, or is the name of a folder of each workspace.
    """
    name = FQCN.check_segment(job_id, "job_id", most=_JOB_ID_LENGTH)
    if name in _WORKSPACE_FOLDERS:
        raise ConfigError(f"job_id {name!r} is the name of a folder that every workspace has: use another id")
    return name
