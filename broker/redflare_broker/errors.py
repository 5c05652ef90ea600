"""Every error the broker raises, under one root: ``RedflareError``.

A docstring is the meaning of its class and names the remedy; the message of an instance adds the value that was wrong.
"The caller misused it" (``ConfigError``, ``EncodeError``), "the peer misbehaved" (``DecodeError``) and "Redis is
away" (``Unavailable``) are different branches, so that a loop can retry the last and must not retry the others.
"""

from __future__ import annotations


class RedflareError(Exception):
    """Root of all errors of this project."""

    #: The first word or words of what the server said, by which causes are told apart; "" when it said nothing.
    cause: str = ""


class ConfigError(RedflareError, ValueError):
    """A setting, URL, name or path is wrong; the message names it, its value, and what is accepted."""


class Unavailable(RedflareError):
    """Redis cannot be reached, or cannot serve now (loading, failing over, memory full); retry with backoff."""

    def __init__(self, message: str, *, cause: str = "") -> None:
        super().__init__(message)
        self.cause = cause


class ServerError(RedflareError):
    """Redis refused a command for good (permission, wrong type); retrying would not help."""


class PreflightError(RedflareError):
    """Redis is not fit to hold tasks; the message says what to change on it."""


class EncodeError(RedflareError, ValueError):
    """A value cannot be put on the wire; the message names its place in the tree. Nothing was written."""


class MessageTooLarge(EncodeError):
    """A message is over the configured cap; raise the cap or send less. Nothing was written."""


class DecodeError(RedflareError, ValueError):
    """A value in Redis is not of this protocol: find its writer; the message names key, entry id and field."""


class WrongSender(DecodeError):
    """A message says that it is from another sender than the one whose inbox it stands in: it counts for nobody."""


class BlobMissing(RedflareError):
    """A payload's chunks are gone from Redis (expired, or lost in a failover); its sender must send it again."""


class Fenced(RedflareError):
    """A newer instance has taken over this link; this one can change nothing any more and must stop."""


class NameTaken(RedflareError):
    """Another process of this name is alive; stop it first, or take its place on purpose.

    Args:
        holder: says which process has the name.
    """

    def __init__(self, holder: str) -> None:
        super().__init__(holder)
        self.holder = holder

    def __str__(self) -> str:
        return self.advise("take_over=True")

    def advise(self, take_over: str) -> str:
        """Say who has the name and what to do; ``take_over``: how the reader asks for its place."""
        return f"{self.holder}. Stop that one, choose another name, or start this one with {take_over}, which ends it"


class JobLost(RedflareError):
    """Redis has lost a job's state, or another run was begun; begin the job again and write its tasks anew."""


class JobEnded(RedflareError):
    """The job is over and nothing can be written to it: stop; the message names the reason."""


class JobExists(RedflareError):
    """The job store has another job of this id; submit under another id, or without one."""


class JobUnknown(RedflareError):
    """The job store has no job of this id: it was deleted, has expired, or never existed; list the jobs."""


class JobUnfinished(RedflareError):
    """The job is not over, so it cannot be deleted; abort it, and wait for its end."""
