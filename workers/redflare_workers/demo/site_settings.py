"""What the demo tells one of its agents, and the workspace it starts the agent in."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from .data import Samples

SETTINGS_FILE = "site.json"
SAMPLES_FILE = "samples.npz"


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoSiteSettings:
    """Everything an agent needs to know; it stands in a file, because a URL may hold a password."""

    url: str
    site: str
    agent_id: str
    index: int  #: of the site, from 1; with seed and round it decides the mini-batches
    seed: int
    ask_leave: bool  #: wait half-way through each round for leave to go on
    scratch: str  #: the demo's directory, removed by whoever ends last

    @property
    def workspace(self) -> Path:
        """The site's directory."""
        return Path(self.scratch) / self.site

    def prepare(self, samples: Samples) -> list[str]:
        """Fill the workspace; answers with the command that starts the agent."""
        self.workspace.mkdir()
        (self.workspace / SETTINGS_FILE).write_text(json.dumps(asdict(self)))
        samples.save(self.workspace / SAMPLES_FILE)
        return [sys.executable, "-m", "redflare_workers.demo.site_agent", str(self.workspace)]

    @classmethod
    def load(cls, workspace: Path) -> DemoSiteSettings:
        """Read what ``prepare`` wrote."""
        return cls(**json.loads((workspace / SETTINGS_FILE).read_text()))
