"""``DemoSettings``: the settings file that all processes of the demo read, and the folder of each."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

#: The images of a process: a site's own, or those held out at the server.
SAMPLES_FILE = "samples.npz"

#: Name of the server's directory.
SERVER = "server"

_SETTINGS_FILE = "demo.json"
_PROGRAMS = "redflare_workers.demo"


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoSettings:
    """The job and its sites; in a file, because a URL may hold a password and a command line can be read by all."""

    url: str = field(repr=False)
    job_id: str  #: also the name of the agents
    sites: list[str]
    rounds: int
    seed: int
    ask_leave: bool  #: agents wait half-way through each round for leave to go on
    scratch: str  #: the demo's directory, removed by the process that ends last

    def folder(self, process: str) -> Path:
        """Return the directory of a site's agent, or of the server."""
        return Path(self.scratch) / process

    def save(self) -> None:
        """Make the directories, and write the settings for ``load``."""
        for process in (SERVER, *self.sites):
            self.folder(process).mkdir()
        (Path(self.scratch) / _SETTINGS_FILE).write_text(json.dumps(asdict(self)))

    def command(self, program: str, *arguments: str) -> list[str]:
        """Return the command that runs a program of the demo with these settings."""
        return [sys.executable, "-m", f"{_PROGRAMS}.{program}", self.scratch, *arguments]

    @classmethod
    def load(cls, scratch: str) -> DemoSettings:
        """Read what ``save`` wrote."""
        return cls(**json.loads((Path(scratch) / _SETTINGS_FILE).read_text()))
