"""The exit code of a job's process that an error has ended."""

from __future__ import annotations

from redflare_broker.errors import ConfigError, Fenced, PreflightError, RedflareError, ServerError, Unavailable

from redflare_workers.processes.exit_code import ExitCode

from .problems import JobProblems


def exit_code_of(error: RedflareError) -> ExitCode:
    """Map an error to the exit code of the job's process."""
    if isinstance(error, JobProblems) and error.unsafe:
        return ExitCode.UNSAFE
    if isinstance(error, JobProblems) and error.__cause__ is not None:
        return ExitCode.EXCEPTION
    if isinstance(error, PreflightError | ServerError | Unavailable | Fenced):
        return ExitCode.INFRASTRUCTURE
    return ExitCode.CONFIG if isinstance(error, ConfigError) else ExitCode.EXCEPTION
