"""Processes of jobs, seen from both ends: a parent starts and watches one, and it ends when the parent is gone."""

from __future__ import annotations

from .ending import Ending
from .exit_code import ExitCode
from .job_process import JobProcess, ProcessMark

__all__ = ["Ending", "ExitCode", "JobProcess", "ProcessMark"]
