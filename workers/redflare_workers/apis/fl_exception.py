"""Exceptions that components raise. Names are those of NVFlare's ``fl_exception``."""

from __future__ import annotations


class UnsafeJobError(Exception):
    """Raised by an executor or a filter: what the job asks for must not be done here."""


class TaskExecutionError(Exception):
    """A task could not be carried out."""


class NotReadyToEndRun(Exception):
    """A component cannot end the run yet."""
