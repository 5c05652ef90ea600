"""Messages of components to components of other processes, and streams of objects and files."""

from __future__ import annotations

from .aux_runner import AuxRunner
from .file_streamer import FileStreamer
from .job_messaging import JobMessaging
from .messenger import Messenger
from .object_streamer import ObjectStreamer
from .switchboard import Switchboard

__all__ = ["AuxRunner", "FileStreamer", "JobMessaging", "Messenger", "ObjectStreamer", "Switchboard"]
