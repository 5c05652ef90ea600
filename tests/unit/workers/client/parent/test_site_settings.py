"""``local/site.json``: what a site allows."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from redflare_broker.errors import ConfigError
from redflare_workers.workspace.site_settings import SiteSettings, load_site_settings
from redflare_workers.workspace.workspace_lock import workspace_lock


def write(workspace: Path, content: str) -> None:
    (workspace / "local").mkdir(exist_ok=True)
    (workspace / "local" / "site.json").write_text(content)


def test_without_a_file_only_shipped_components_are_allowed(tmp_path: Path) -> None:
    settings = load_site_settings(tmp_path)
    assert settings == SiteSettings()
    assert not settings.allow_custom
    assert all(pattern.startswith("redflare_workers.") for pattern in settings.allow)


def test_the_file_extends_what_the_site_allows(tmp_path: Path) -> None:
    write(tmp_path, json.dumps({"allow": ["mylib.*"], "allow_custom": True, "resources": {"gpus": 2}}))
    settings = load_site_settings(tmp_path)
    assert settings.allow == (*SiteSettings().allow, "mylib.*"), "on top of what ships"
    assert (settings.allow_custom, settings.resources) == (True, {"gpus": 2})


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("{", "cannot be read"),
        ("[]", "must hold a JSON object"),
        ('{"alow": []}', "'alow' is not known; did you mean 'allow'"),
        ('{"allow": "mylib.*"}', "list of class paths"),
        ('{"allow_custom": "yes"}', "true or false"),
        ('{"resources": [1]}', "resources must be an object"),
        ('{"resources": {"gpus": "2"}}', r"resources\.gpus"),
        ('{"abort_grace": -1}', "abort_grace"),
        ('{"max_bytes": true}', "max_bytes"),
    ],
)
def test_an_error_names_the_file(tmp_path: Path, content: str, match: str) -> None:
    write(tmp_path, content)
    with pytest.raises(ConfigError, match=match) as caught:
        load_site_settings(tmp_path)
    assert "site.json" in str(caught.value)


def test_a_workspace_is_locked_until_it_is_left(tmp_path: Path) -> None:
    with workspace_lock(tmp_path), pytest.raises(ConfigError, match="serves the workspace"), workspace_lock(tmp_path):
        pass
    with workspace_lock(tmp_path):
        pass


def test_a_workspace_remembers_who_has_served_it(tmp_path: Path) -> None:
    with workspace_lock(tmp_path) as first:
        assert first.last == ""
        first.note("host:1:aaaa")
    with workspace_lock(tmp_path) as second:
        assert second.last == "host:1:aaaa"
        with pytest.raises(ConfigError, match=rf"^process {os.getpid()} serves"), workspace_lock(tmp_path):
            pass
    with workspace_lock(tmp_path) as third:
        assert third.last == "host:1:aaaa"
