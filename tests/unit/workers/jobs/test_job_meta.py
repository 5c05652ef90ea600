"""meta.json: what is read from it, and its errors."""

from __future__ import annotations

from typing import Any

import pytest
from redflare_workers.jobs import JobMeta, parse_meta

GOOD: dict[str, Any] = {"name": "means", "min_clients": 2, "deploy_map": {"app": ["@ALL"]}}


def problems_of(**changes: Any) -> list[str]:
    data = {key: value for key, value in {**GOOD, **changes}.items() if value is not None}
    return [str(problem) for problem in parse_meta(data)[1]]


def test_a_meta_is_read_and_written() -> None:
    data = {
        **GOOD,
        "mandatory_clients": ["site-1"],
        "agent_id": "trainer",
        "resource_spec": {"site-1": {"num_of_gpus": 1}, "@ALL": {"memory": 0.5, "num_of_gpus": 0}},
        "scope": "public",
    }
    meta, problems, warnings = parse_meta(data)
    assert problems == []
    assert [str(warning) for warning in warnings] == ["meta.json: scope: is not a key of redflare and has no effect"]
    assert meta.to_dict() == data
    assert meta.resources_for("site-1") == {"num_of_gpus": 1, "memory": 0.5}
    assert meta.named_clients is None


def test_what_is_left_out_has_defaults() -> None:
    meta, problems, warnings = parse_meta({"name": "x", "deploy_map": {"app": ["@ALL"]}})
    assert (problems, warnings) == ([], [])
    assert (meta.min_clients, meta.mandatory_clients, meta.agent_id, dict(meta.resource_spec)) == (1, (), None, {})


def test_a_misspelt_key_is_a_warning_with_a_hint() -> None:
    assert [str(w) for w in parse_meta({**GOOD, "min_client": 3})[2]] == [
        "meta.json: min_client: is not a key of redflare and has no effect; did you mean 'min_clients'?"
    ]


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (["@ALL"], ("@ALL",)),
        (["@all"], ("@ALL",)),
        (["server", "site-1"], ("server", "site-1")),
        ("@ALL", ("@ALL",)),
        ({"targets": ["server", "site-1"]}, ("server", "site-1")),
        ([{"sites": ["server"]}, "site-1"], ("server", "site-1")),
    ],
    ids=str,
)
def test_a_deploy_map_is_written_in_the_ways_of_nvflare(targets: Any, expected: tuple[str, ...]) -> None:
    meta, problems, _ = parse_meta({"name": "x", "deploy_map": {"app": targets}})
    assert (problems, meta.deploy_map) == ([], {"app": expected})


def test_all_means_the_sites_that_are_not_named_elsewhere() -> None:
    apps = {"main": ("server",), "special": ("site-1",), "rest": ("@ALL",)}
    meta = JobMeta(name="x", deploy_map=apps)
    assert {who: meta.app_for(who) for who in ("server", "site-1", "site-2")} == {
        "server": "main",
        "site-1": "special",
        "site-2": "rest",
    }


def test_a_site_that_is_not_named_has_no_app() -> None:
    meta = JobMeta(name="x", deploy_map={"app": ("server", "site-1")})
    assert (meta.app_for("site-2"), meta.named_clients) == (None, ("site-1",))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"name": None}, "name: must be a text of 1 to 200 characters, but is None"),
        ({"name": "a\nb"}, r"name: must be a text of 1 to 200 characters, but is 'a\nb'"),
        ({"min_clients": 0}, "min_clients: must be a whole number from 1 to 1000000, but is 0"),
        ({"min_clients": True}, "min_clients: must be a whole number from 1 to 1000000, but is True"),
        ({"min_clients": "2"}, "min_clients: must be a whole number from 1 to 1000000, but is '2'"),
        ({"mandatory_clients": "site-1"}, "mandatory_clients: must be a list of names of sites, but is 'site-1'"),
        ({"mandatory_clients": ["server"]}, "mandatory_clients[0]: 'server' is the server, not a site"),
        ({"mandatory_clients": ["a", "a"]}, "mandatory_clients[1]: 'a' is listed more than once"),
        (
            {"mandatory_clients": ["a.b"]},
            "mandatory_clients[0]: the site's name 'a.b' is not legal: use one or more of A-Z a-z 0-9 _ ~ - and "
            "nothing else",
        ),
        ({"agent_id": 7}, "agent_id: it must be a str, but got int (7)"),
        (
            {"deploy_map": None},
            'deploy_map: must map apps to sites, like {"app": ["@ALL"]}, but is None',
        ),
        ({"deploy_map": {"app": []}}, "deploy_map.app: names no site; leave the app out, or name its sites"),
        (
            {"deploy_map": {"app": ["site-1"]}, "min_clients": 1},
            "deploy_map: no app goes to 'server'; name it, or '@ALL'",
        ),
        ({"deploy_map": {"app": ["server"]}}, "deploy_map: no app goes to a site; name some, or '@ALL'"),
        (
            {"deploy_map": {"a": ["server", "x"], "b": ["x", "y"]}},
            "deploy_map.b: 'x' gets app 'a' already; a site has one app of a job",
        ),
        ({"deploy_map": {"app": ["server", "x"]}}, "min_clients: is 2, but the deploy map names 1"),
        (
            {"deploy_map": {"app": ["server", "x", "y"]}, "mandatory_clients": ["z"]},
            "mandatory_clients: 'z' have no app in the deploy map",
        ),
        (
            {"resource_spec": {"x": {"gpus": "1"}}},
            "resource_spec.x.gpus: must be a number >= 0, but is '1'",
        ),
        ({"resource_spec": {"x": {"gpus": -1}}}, "resource_spec.x.gpus: must be a number >= 0, but is -1"),
        ({"resource_spec": {"x": 1}}, "resource_spec.x: must be a dict of numbers, but is 1"),
    ],
)
def test_an_error_is_reported_with_its_key(changes: dict[str, Any], expected: str) -> None:
    assert problems_of(**changes) == [f"meta.json: {expected}"]


def test_all_errors_are_reported_together() -> None:
    found = problems_of(name="", min_clients=0, agent_id="a b", deploy_map={"../up": ["@ALL"], "app": [1]})
    assert [text.split(": ")[1] for text in found] == [
        "deploy_map.../up",
        "deploy_map.app[0]",
        "name",
        "min_clients",
        "agent_id",
    ]
