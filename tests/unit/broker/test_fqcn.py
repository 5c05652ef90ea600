"""Names of processes: which are legal, and that one rule for a job's id holds wherever an id is taken."""

from __future__ import annotations

from pathlib import Path

import pytest
from redflare_broker.config.settings import STARTUP_FOLDER
from redflare_broker.errors import ConfigError
from redflare_broker.fqcn import FQCN, agent_site_fqcn, check_job_id, check_name
from redflare_workers.workspace.run_folder import RunFolder
from redflare_workers.workspace.site_settings import LOCAL_FOLDER


def test_a_segment_is_no_longer_than_a_file_name_may_be() -> None:
    assert FQCN.check("a" * 200) == "a" * 200
    with pytest.raises(ConfigError, match=r"'a{40}'... has 201 characters: use at most 200"):
        FQCN.check("site." + "a" * 201)


def test_site_and_agent_together_are_one_segment() -> None:
    assert agent_site_fqcn("s" * 99, "a" * 99) == f"{'s' * 99}--{'a' * 99}"
    with pytest.raises(ConfigError, match="201 characters"):
        agent_site_fqcn("s" * 100, "a" * 99)


@pytest.mark.parametrize(("site", "agent"), [("a", "b--c"), ("a--b", "c"), ("a-", "b"), ("a", "-b")])
def test_two_sites_share_no_link_whatever_they_call_their_agents(site: str, agent: str) -> None:
    refusal = r"is not legal: it may have single hyphens inside, since -- separates site|begins with -, which commands"
    with pytest.raises(ConfigError, match=refusal):
        agent_site_fqcn(site, agent)
    with pytest.raises(ConfigError, match=refusal):
        agent_site_fqcn(site, agent, "job-1")


@pytest.mark.parametrize("name", ["a", "site-1", "~a_b~", "1"])
def test_single_hyphens_may_stand_inside_a_name(name: str) -> None:
    assert check_name(name, "site") == name


@pytest.mark.parametrize("name", [STARTUP_FOLDER, LOCAL_FOLDER])
def test_the_name_of_a_folder_of_each_workspace_is_no_id(name: str, tmp_path: Path) -> None:
    for check in (
        check_job_id,
        lambda job: agent_site_fqcn("site-1", "trainer", job),
        lambda job: RunFolder(tmp_path, job),
    ):
        with pytest.raises(ConfigError, match=f"job_id '{name}' is the name of a folder"):
            check(name)


@pytest.mark.parametrize("length", [65, 200, 300])
def test_an_id_has_64_characters_at_most(length: int) -> None:
    assert check_job_id("x" * 64) == "x" * 64
    with pytest.raises(ConfigError, match=f"has {length} characters: use at most 64"):
        check_job_id("x" * length)


def test_a_name_that_a_command_takes_for_an_option_is_none() -> None:
    with pytest.raises(ConfigError, match=r"job_id '-x' begins with -, which commands take for an option"):
        check_job_id("-x")
    with pytest.raises(ConfigError, match=r"agent_id '--force' begins with -"):
        agent_site_fqcn("site-1", "--force")
    assert FQCN.check("site-1.a-.~b") == "site-1.a-.~b"
