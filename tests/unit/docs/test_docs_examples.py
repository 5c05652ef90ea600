"""The examples of the README and of several pages are run as they are."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from redflare_agent import Task
from redflare_broker.embedded.server import EmbeddedServer
from redflare_workers.ipc.exchanger import IPCExchanger

from tests.support.paths import ROOT

DOCS: Final = ROOT / "docs"
PAGES: Final = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md"), *(DOCS / "decisions").glob("*.md")])
#: The server that the README's examples use.
README_URL: Final = "redis://127.0.0.1:6379"


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run this interpreter in a folder; warnings are errors in the examples too."""
    command = [sys.executable, "-W", "error", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_the_tests_of_the_testing_page_pass(tmp_path: Path) -> None:
    text = "\n".join(blocks(DOCS / "testing.md", "python"))
    (tmp_path / "test_page.py").write_text(text)
    ran = run(tmp_path, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "test_page.py")
    assert f"{len(re.findall('^def test_', text, re.MULTILINE))} passed" in ran.stdout, ran.stdout
    assert ran.returncode == 0


def test_the_agent_and_the_job_of_the_readme_print_the_output_that_it_shows(tmp_path: Path) -> None:
    with EmbeddedServer() as server:
        for name, text in zip(("agent.py", "job.py"), blocks(ROOT / "README.md", "python"), strict=True):
            (tmp_path / name).write_text(text.replace(README_URL, server.url))
        check_readme(tmp_path)


def check_readme(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "agent.py"], cwd=tmp_path) as trainer:
        try:
            ran = run(tmp_path, "job.py")
            assert (ran.stdout, ran.stderr) == (blocks(ROOT / "README.md", "text")[0], "")
            assert trainer.wait(timeout=10) == 0  # the job said bye
        finally:
            trainer.kill()


@pytest.mark.parametrize("form", ["loop", "function", "main"])
def test_each_form_of_a_trainer_on_its_page_answers_tasks(form: str) -> None:
    text = "\n".join(blocks(DOCS / "trainers.md", "python"))
    with EmbeddedServer() as server:
        page: dict[str, Any] = {}
        exec(compile(text.replace('"redis://127.0.0.1"', repr(server.url)), "trainers.md", "exec"), page)
        with IPCExchanger(redis_url=server.url, site_name="site-1", agent_id="trainer") as site:
            trainer = threading.Thread(target=page[form], args=[] if form == "main" else [server.url])
            trainer.start()
            assert site.run("train", {"w": 1}, timeout=10).data == {"w": 2}
        trainer.join(timeout=10)
        assert not trainer.is_alive()


def test_the_trainer_that_stops_early_does_so() -> None:
    page: dict[str, Any] = {}
    exec("\n".join(blocks(DOCS / "trainers.md", "python")), page)
    task = Task("train", "t", {}, {})
    assert page["train_until_aborted"](task).meta == {"steps": 1000}
    task.aborted = True
    assert page["train_until_aborted"](task).meta == {"steps": 0}


def test_the_agent_of_the_readme_has_about_twenty_lines() -> None:
    lines = blocks(ROOT / "README.md", "python")[0].splitlines()
    assert len([line for line in lines if line.strip()]) <= 20


@pytest.mark.parametrize("page", ["configuration.md", "protocol.md"])
def test_json_and_python_of_a_page_can_be_read(page: str) -> None:
    for text in blocks(DOCS / page, "json"):
        json.loads(text)
    for text in blocks(DOCS / page, "python"):
        exec(compile(text, page, "exec"), {})


def links() -> Iterator[tuple[Path, str]]:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)):
            if not target.startswith(("http://", "https://", "mailto:")):
                yield page, target


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_link_between_pages_has_a_target() -> None:
    broken = []
    for page, target in links():
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        if not found.exists() or (anchor and anchor not in anchors(found)):
            broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert broken == []


def test_every_page_is_listed_in_the_index() -> None:
    listed = {(page.parent / target.partition("#")[0]).resolve() for page, target in links() if page.name == "index.md"}
    assert {page for page in PAGES if page.parent == DOCS and page.name != "index.md"} <= listed
