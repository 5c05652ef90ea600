"""Errors in a job, each with file and key, reported together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from redflare_broker.errors import ConfigError, Fenced, PreflightError, RedflareError, ServerError, Unavailable

from redflare_workers.processes.exit_code import ExitCode


@dataclass(frozen=True, slots=True)
class Problem:
    """One error, with its place."""

    #: path in the job, ``app/config/config_fed_server.json``; "" if it is about the job as a whole
    file: str
    #: path in the file, ``workflows[0].args.min_clients``; "" if it is about the file as a whole
    key: str
    text: str
    #: the job asks for something that this site does not allow
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
        """Whether the job asks for something that this site does not allow."""
        return any(problem.unsafe for problem in self.problems)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.what, self.problems)


def further(known: Iterable[Problem], found: Iterable[Problem]) -> list[Problem]:
    """Return those of ``found`` whose places are not complained about already: one mistake is reported once."""
    places = {(problem.file, problem.key) for problem in known}
    return [problem for problem in found if (problem.file, problem.key) not in places]


class ProblemReader:
    """Reads one file of a job, and collects its errors."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []

    def _add(self, key: str, text: str) -> None:
        self.problems.append(Problem(self.file, key, text))


def exit_code_of(error: RedflareError) -> ExitCode:
    """Map an error that ends the process of a job to its exit code."""
    if isinstance(error, JobProblems) and error.unsafe:
        return ExitCode.UNSAFE
    if isinstance(error, JobProblems) and error.__cause__ is not None:
        return ExitCode.EXCEPTION
    if isinstance(error, PreflightError | ServerError | Unavailable | Fenced):
        return ExitCode.INFRASTRUCTURE
    return ExitCode.CONFIG if isinstance(error, ConfigError) else ExitCode.EXCEPTION


def listed(words: Iterable[str]) -> str:
    """``"'a', 'b'"``, sorted."""
    return ", ".join(map(repr, sorted(words)))
