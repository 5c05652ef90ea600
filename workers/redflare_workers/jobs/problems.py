"""Errors in a job, each with file and key, reported together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from redflare_broker.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Problem:
    """One error, with its place."""

    #: path in the job, ``app/config/config_fed_server.json``; "" if it is about the job as a whole
    file: str
    #: path in the file, ``workflows[0].args.min_clients``; "" if it is about the file as a whole
    key: str
    text: str
    #: the job asks for something that this site does not admit
    unsafe: bool = False

    def __str__(self) -> str:
        return ": ".join(part for part in (self.file, self.key, self.text) if part)


class JobProblems(ConfigError):
    """A job, or an app of it, cannot be used; fix all ``problems`` and submit it again."""

    def __init__(self, what: str, problems: Iterable[Problem]) -> None:
        self.what = what
        self.problems = tuple(problems)
        super().__init__("\n  ".join([f"{what}:", *map(str, self.problems)]))

    @property
    def unsafe(self) -> bool:
        """Whether the job asks for something that this site does not admit."""
        return any(problem.unsafe for problem in self.problems)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.what, self.problems)
