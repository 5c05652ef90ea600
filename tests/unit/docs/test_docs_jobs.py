"""The programs of the page on jobs are run as they are."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from redflare_broker.embedded.server import EmbeddedServer
from redflare_workers import DXO, DataKind, FLContext, from_shareable

from tests.unit.docs.test_docs_examples import DOCS, README_URL, blocks, run

PAGE = DOCS / "jobs.md"


def test_the_three_programs_print_the_output_that_the_page_shows(tmp_path: Path) -> None:
    python = blocks(PAGE, "python")
    with EmbeddedServer() as server, ExitStack() as ending:
        for name, text in zip(("server.py", "site.py", "agent.py"), python, strict=False):
            (tmp_path / name).write_text(text.replace(README_URL, server.url))
        others = []
        for program in ("agent.py", "site.py"):
            for site in ("site-1", "site-2"):
                command = [sys.executable, "-W", "error", program, site]
                others.append(subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True))
                ending.callback(others[-1].kill)
        ran = run(tmp_path, "server.py")
        assert (ran.stdout, ran.stderr) == (blocks(PAGE, "text")[1], "")
        outputs = [process.communicate(timeout=20)[0] for process in others]
        assert [process.returncode for process in others] == [0] * 4
    assert outputs == ["", "", "site-1 FINISHED:COMPLETED\n", "site-2 FINISHED:COMPLETED\n"]


def test_the_filter_rounds_results() -> None:
    names: dict[str, Any] = {}
    exec(compile(blocks(PAGE, "python")[-1], "jobs.md", "exec"), names)
    result = DXO(DataKind.WEIGHTS, {"w": np.array([0.12345])}).to_shareable()
    assert from_shareable(names["Rounding"]().process(result, FLContext())).data["w"].tolist() == [0.123]
