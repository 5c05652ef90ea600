"""The settings in a workspace, ``comm_config.json`` and ``startup/``, and the page that documents every key."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from redflare_broker.config import settings
from redflare_broker.config.retention import JobRetentionPolicy, RetentionPolicy
from redflare_broker.config.settings import LinkSettings, load_settings, load_workspace
from redflare_broker.errors import ConfigError
from redflare_broker.transport.server import ConnectionOptions
from redflare_broker.wire.codec import CodecLimits

from tests.support.paths import DOCS
from tests.support.redis_server.node import AGENT_ACL, CJ_ACL

PAGE: Final = (DOCS / "configuration.md").read_text()


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    (tmp_path / "startup").mkdir()
    return tmp_path


def configure(workspace: Path, config: object) -> Path:
    """Write ``comm_config.json``; return the workspace."""
    (workspace / "comm_config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return workspace


def certify(workspace: Path, *names: str) -> None:
    for name in names:
        (workspace / "startup" / name).write_text("certificate")


class TestTheFile:
    def test_without_a_workspace_everything_has_its_default(self, tmp_path: Path) -> None:
        assert load_settings(tmp_path / "missing") == LinkSettings()

    def test_every_key_arrives_where_it_belongs(self, workspace: Path) -> None:
        loaded = load_settings(
            configure(
                workspace,
                {
                    "namespace": "hospital",
                    "username": "site-1",
                    "check_hostname": False,
                    "socket_timeout": 7,
                    "connect_timeout": 3.5,
                    "heartbeat_interval": 2,
                    "heartbeat_ttl": 20,
                    "block": 10,
                    "allow_eviction": True,
                    "limits": {"max_bytes": 1 << 20, "chunk_bytes": 4096},
                    "retention": {"retention": 100, "result_keep": 5.5, "dead_entries": 9},
                    "job_store": {"job_retention": 60, "log_lines": 7},
                },
            )
        )
        assert loaded == LinkSettings(
            namespace="hospital",
            connection=ConnectionOptions(
                username="site-1", check_hostname=False, socket_timeout=7, connect_timeout=3.5
            ),
            limits=CodecLimits(max_bytes=1 << 20, chunk_bytes=4096),
            policy=RetentionPolicy(retention=100, result_keep=5.5, dead_entries=9),
            job_store=JobRetentionPolicy(job_retention=60, log_lines=7),
            heartbeat_interval=2,
            heartbeat_ttl=20,
            block=10,
            allow_eviction=True,
        )

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            (
                {"namspace": "x", "blok": 1},
                r"unknown keys \['blok', 'namspace'\]; known are .*'namespace'.*mean 'block'\?; .*mean 'namespace'\?",
            ),
            ({"password": "secret"}, r"unknown keys \['password'\]"),
            ({"limits": {"max_byte": 1}}, r"limits: unknown keys \['max_byte'\]; known are .*'max_bytes'"),
            ({"retention": {"keep": 1}}, r"retention: unknown keys \['keep'\]; known are .*'result_keep'"),
        ],
    )
    def test_unknown_keys_are_named_with_those_that_are_known(
        self, workspace: Path, config: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ConfigError, match=message) as refused:
            load_settings(configure(workspace, config))
        assert str(workspace / "comm_config.json") in str(refused.value)

    def test_null_is_like_a_name_that_is_not_given(self, workspace: Path) -> None:
        names = ("namespace", "username", "password_file", "check_hostname", "allow_eviction")
        settings = load_settings(configure(workspace, dict.fromkeys(names)))
        assert settings == load_settings(workspace / "nowhere")

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            ({"heartbeat_interval": "5"}, r"heartbeat_interval must be a number > 0 \(seconds\), but got '5'"),
            ({"heartbeat_ttl": 0}, "heartbeat_ttl must be a number > 0 .* got 0"),
            ({"block": True}, "block must be a number > 0 .* got True"),
            ({"socket_timeout": -1}, "socket_timeout must be a positive number of seconds, but got -1"),
            ({"connect_timeout": None}, "connect_timeout must be a positive number of seconds, but got None"),
            ({"limits": {"max_bytes": 1.5}}, "limits.max_bytes must be a whole number, but is 1.5"),
            ({"limits": {"max_depth": 121}}, "max_depth must be at most 120, but got 121"),
            ({"limits": {"max_items": "many"}}, "limits.max_items must be a whole number, but is 'many'"),
            ({"limits": 5}, "'limits' must be an object, but is a int"),
            ({"retention": [60]}, "'retention' must be an object, but is a list"),
            ({"retention": {"result_keep": "1h"}}, "retention.result_keep must be a number of seconds, but is '1h'"),
            ({"namespace": "a b"}, r"comm_config\.json: namespace 'a b' is not legal"),
            ({"namespace": 5}, r"comm_config\.json: namespace must be a str, but is 5"),
            ({"username": ["a"]}, r"username must be a str, but is \['a'\]"),
            ({"password_file": 5}, "password_file must be a str, but is 5"),
            ({"check_hostname": "no"}, "check_hostname must be a bool, but is 'no'"),
            ({"allow_eviction": 1}, "allow_eviction must be a bool, but is 1"),
            ({"job_store": {"log_lines": 0}}, "log_lines must be a number > 0"),
            ({"retention": {"dead_entries": 0.5}}, "retention.dead_entries must be a whole number, but is 0.5"),
            ({"heartbeat_interval": 40}, "heartbeat_ttl 60.0 is less than twice heartbeat_interval 40"),
        ],
    )
    def test_a_wrong_value_is_shown_with_its_key(self, workspace: Path, config: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            load_settings(configure(workspace, config))

    @pytest.mark.parametrize(
        ("text", "message"),
        [("{", "is not JSON"), ("", "is not JSON"), ("[]", "must hold a JSON object, but holds a list")],
    )
    def test_a_file_that_is_no_object_is_named(self, workspace: Path, text: str, message: str) -> None:
        with pytest.raises(ConfigError, match=message) as refused:
            load_settings(configure(workspace, text))
        assert str(workspace / "comm_config.json") in str(refused.value)

    def test_a_file_that_cannot_be_read_is_named(self, workspace: Path) -> None:
        (workspace / "comm_config.json").mkdir()
        with pytest.raises(ConfigError, match=r"comm_config\.json cannot be read"):
            load_settings(workspace)

    def test_a_relative_password_file_is_found_in_the_workspace(self, workspace: Path) -> None:
        (workspace / "redis.password").write_text("s3cret\n")
        loaded = load_settings(configure(workspace, {"password_file": "redis.password"}))
        assert loaded.connection.read_password() == "s3cret"

    def test_an_absolute_password_file_stays_where_it_is(self, workspace: Path, tmp_path: Path) -> None:
        elsewhere = tmp_path / "elsewhere"
        elsewhere.write_text("there")
        loaded = load_settings(configure(workspace, {"password_file": str(elsewhere)}))
        assert loaded.connection.read_password() == "there"


class TestCertificates:
    def test_a_root_certificate_is_found(self, workspace: Path) -> None:
        certify(workspace, "rootCA.pem")
        assert load_settings(workspace).connection == ConnectionOptions(
            ca_cert=str(workspace / "startup" / "rootCA.pem")
        )

    def test_a_client_certificate_is_found_with_its_key(self, workspace: Path) -> None:
        certify(workspace, "rootCA.pem", "client.crt", "client.key")
        connection = load_settings(workspace, secure=True).connection
        assert connection.client_cert == str(workspace / "startup" / "client.crt")
        assert connection.client_key == str(workspace / "startup" / "client.key")

    @pytest.mark.parametrize(("there", "missing"), [("client.crt", "client.key"), ("client.key", "client.crt")])
    def test_a_certificate_without_its_key_is_refused_and_the_missing_file_named(
        self, workspace: Path, there: str, missing: str
    ) -> None:
        certify(workspace, "rootCA.pem", there)
        with pytest.raises(ConfigError, match=re.escape(f"{workspace / 'startup' / missing} is missing")):
            load_settings(workspace)

    def test_secure_mode_names_the_root_certificate_it_searched(self, workspace: Path) -> None:
        with pytest.raises(ValueError, match=re.escape(str(workspace / "startup" / "rootCA.pem"))):
            load_settings(workspace, secure=True)


def documented() -> Iterator[tuple[str, object]]:
    """Keys of the page's tables with their defaults, as ``section.key``."""
    part = PAGE.partition("## comm_config.json")[2].partition("\n## ")[0]
    for section in re.split(r"^### ", part, flags=re.MULTILINE)[1:]:
        title = section.partition("\n")[0].strip("`")
        for name, default in re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", section, re.MULTILINE):
            yield name if title == "Top level" else f"{title}.{name}", json.loads(default)


def known() -> dict[str, object]:
    """Every key that is read, with its default."""
    defaults = {
        item.name: item.default for kind in (LinkSettings, ConnectionOptions) for item in dataclasses.fields(kind)
    }
    found = {key: defaults[key] for key in (*settings._TOP_KEYS, *settings._CONNECTION_KEYS)}
    for section, kind in (("limits", CodecLimits), ("retention", RetentionPolicy), ("job_store", JobRetentionPolicy)):
        found |= {f"{section}.{item.name}": item.default for item in dataclasses.fields(kind)}
    return found


class TestThePage:
    def test_it_has_every_key_with_its_default(self) -> None:
        assert dict(documented()) == known()

    def test_its_example_can_be_loaded(self, workspace: Path) -> None:
        example = PAGE.partition("```json\n")[2].partition("```")[0]
        loaded = load_settings(configure(workspace, example))
        assert (loaded.namespace, loaded.policy.result_keep) == ("hospital", 600)

    def test_its_users_have_the_rules_that_the_tests_run_under(self) -> None:
        lines = re.findall(r"^user (agent|cj) on >secret (.*)$", PAGE, re.MULTILINE)
        assert dict(lines) == {"agent": AGENT_ACL, "cj": CJ_ACL}


def test_a_workspace_that_a_program_names_and_that_does_not_exist_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert load_workspace(tmp_path) == load_workspace(tmp_path / "mistyped")
    [record] = caplog.records
    assert record.getMessage() == (
        f"there is no folder {tmp_path}/mistyped (workspace_dir): the default settings are used"
    )
