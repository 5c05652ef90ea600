"""Messages between components of different processes, and streams of objects and files.

Start at: ``messenger.Messenger``, which an engine has; ``aux_runner`` sends and handles messages, ``object_streamer``
streams. A ``switchboard`` hands a cell's messages to the engine that they are for.

May import: protocol, apis, util and the broker.
"""

from __future__ import annotations

from .aux_runner import AuxRunner
from .file_streamer import FileStreamer
from .job_messaging import JobMessaging
from .messenger import Messenger
from .object_streamer import ObjectStreamer
from .switchboard import Switchboard

__all__ = ["AuxRunner", "FileStreamer", "JobMessaging", "Messenger", "ObjectStreamer", "Switchboard"]
